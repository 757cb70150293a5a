"""Requests outlive the epochs that compute them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.generation import Generation
from cluster.core.clock import ManualClock
from cluster.core.config import Limits
from cluster.core.errors import (
    EngineCrashed,
    EpochEnded,
    NotReady,
    QueueFull,
    RequestCrashes,
    ShuttingDown,
    StepOverdue,
    TandemError,
)
from cluster.core.ids import Epoch
from cluster.core.plan import Step
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import ModelRanks, continuation, make_coordinator

GREEDY = Sampling(temperature=0.0)
PROMPTS = [tuple(range(40 + i, 60 + 3 * i)) for i in range(6)]


@asynccontextmanager
async def epoch(
    coordinator: Coordinator, number: int, *, stuck: bool = False
) -> AsyncIterator[ModelRanks]:
    """An epoch that ends when `failure` of its ranks is set, or with the block. One that is
    `stuck` never answers a step."""
    ranks = ModelRanks()
    if stuck:
        ranks.gate.clear()
    driving = asyncio.create_task(drive(coordinator, Epoch(number), ranks, trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    yield ranks
    driving.cancel()
    await asyncio.wait([driving])
    assert coordinator.scheduler is None


async def until(generation: Generation, tokens: int) -> None:
    await wait_for(lambda: generation.progress.generated >= tokens)


async def breaks(coordinator: Coordinator, ranks: ModelRanks, error: TandemError) -> None:
    """The epoch ends by itself."""
    ranks.failure = error
    ranks.gate.set()
    await wait_for(lambda: coordinator.scheduler is None)


async def whole(generation: Generation) -> str:
    return "".join([piece.text async for piece in generation])


async def test_answers_go_on_where_they_were() -> None:
    coordinator = make_coordinator()
    length = 900
    async with epoch(coordinator, 1) as ranks:
        live = [coordinator.submit(Order(prompt, GREEDY, length)) for prompt in PROMPTS]
        texts = [asyncio.create_task(whole(generation)) for generation in live]
        await until(live[0], 50)
        await breaks(coordinator, ranks, EpochEnded("rank 1 is gone"))
    for number in (2, 3):  # twice more in the middle
        async with epoch(coordinator, number) as ranks:
            await until(live[0], 250 * number - 250)
            await breaks(coordinator, ranks, EpochEnded("again"))
    async with epoch(coordinator, 4) as ranks:
        for prompt, generation, text in zip(PROMPTS, live, texts, strict=True):
            ids = continuation(prompt, length)
            assert await text == "".join(map(chr, ids))
            assert generation.ids == ids
            assert generation.usage.completion_tokens == length
        await wait_for(lambda: not coordinator.live.journal)
    assert len(coordinator.live.channels) == coordinator.live.channels.orphan_tokens == 0
    assert coordinator.tally.replayed == 3 * len(PROMPTS)


async def test_a_prompt_that_was_half_computed_is_computed_anew() -> None:
    coordinator = make_coordinator(limits=Limits(parked=4))
    prompt = tuple(40 + i % 50 for i in range(3000))
    async with epoch(coordinator, 1) as ranks:
        ranks.gate.clear()
        generation = coordinator.submit(Order(prompt, GREEDY, 20))
        await wait_for(lambda: ranks.steps)
        await breaks(coordinator, ranks, EpochEnded("gone"))
    async with epoch(coordinator, 2):
        assert await whole(generation) == "".join(map(chr, continuation(prompt, 20)))


async def test_requests_that_come_between_epochs_wait() -> None:
    coordinator = make_coordinator(limits=Limits(parked=0, sequences=2, queue=2))
    with pytest.raises(NotReady):  # before the first
        coordinator.submit(Order(PROMPTS[0], GREEDY, 5))
    async with epoch(coordinator, 1):
        pass
    assert coordinator.health().recovering and not coordinator.health().ok
    live = [coordinator.submit(Order(prompt, GREEDY, 5)) for prompt in PROMPTS[:4]]
    with pytest.raises(QueueFull):
        coordinator.submit(Order(PROMPTS[4], GREEDY, 5))
    async with epoch(coordinator, 2):
        for prompt, generation in zip(PROMPTS, live, strict=False):
            assert await whole(generation) == "".join(map(chr, continuation(prompt, 5)))


async def test_they_do_not_wait_for_ever() -> None:
    clock = ManualClock()
    coordinator = make_coordinator(limits=Limits(recovery_seconds=30.0), clock=clock)
    async with epoch(coordinator, 1):
        generation = coordinator.submit(Order(PROMPTS[0], GREEDY, 4000))
        await until(generation, 10)
    clock.advance(29.0)
    coordinator.look()
    assert generation.finish is None
    clock.advance(1.0)
    coordinator.look()
    assert generation.finish is Finish.FAILED
    with pytest.raises(NotReady, match="no engines for 30 s"):
        await whole(generation)
    with pytest.raises(NotReady):
        coordinator.submit(Order(PROMPTS[0], GREEDY, 5))
    assert not coordinator.live.journal and not coordinator.health().recovering
    async with epoch(coordinator, 2):  # and yet it comes back
        await whole(coordinator.submit(Order(PROMPTS[0], GREEDY, 5)))


async def test_stopping_between_epochs() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator, 1):
        generation = coordinator.submit(Order(PROMPTS[0], GREEDY, 4000))
        await until(generation, 10)
    coordinator.close()
    with pytest.raises(ShuttingDown):
        await whole(generation)
    assert not coordinator.live.journal and not coordinator.live.channels


async def test_who_is_over_for_its_client_is_gone_with_the_epoch() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator, 1) as ranks:
        generation = coordinator.submit(Order(PROMPTS[0], GREEDY, 4000))
        await until(generation, 10)
        ranks.gate.clear()
        generation.cancel()
        assert coordinator.live.journal  # it drains
    assert not coordinator.live.journal and not coordinator.live.channels


def computed(steps: list[Step]) -> int:
    """Most sequences in one step."""
    return max(len({*step.decode, *(chunk.slot for chunk in step.chunks)}) for step in steps)


async def test_what_crashes_engines_twice_is_computed_alone() -> None:
    coordinator = make_coordinator()
    for number in (1, 2):
        async with epoch(coordinator, number) as ranks:
            if number == 1:
                live = [coordinator.submit(Order(p, GREEDY, 900)) for p in PROMPTS[:3]]
            for generation in live:
                await until(generation, 40 * number)
            await breaks(coordinator, ranks, EngineCrashed("rank 0 was killed"))
            coordinator.live.blame()
            assert computed(ranks.steps) == 3
    late = coordinator.submit(Order(PROMPTS[3], GREEDY, 5))
    async with epoch(coordinator, 3) as ranks:
        await whole(late)
        first = ranks.steps[0]
        assert len(first.admit) == 1
        alone = [step for step in ranks.steps if len(step.decode) == 1]
        assert len({slot for step in alone for slot in step.decode}) >= 1
        for prompt, generation in zip(PROMPTS, live, strict=False):
            assert await whole(generation) == "".join(map(chr, continuation(prompt, 900)))


async def test_it_fails_only_when_it_crashes_alone() -> None:
    coordinator = make_coordinator()
    for number in (1, 2, 3):
        async with epoch(coordinator, number, stuck=True) as ranks:
            if number == 1:
                bad = coordinator.submit(Order(PROMPTS[0], GREEDY, 900))
                good = coordinator.submit(Order(PROMPTS[1], GREEDY, 900))
            await wait_for(lambda ranks=ranks: ranks.steps)
            await breaks(coordinator, ranks, EngineCrashed("rank 0 raised"))
            coordinator.live.blame()
    assert bad.finish is Finish.FAILED and good.finish is None
    with pytest.raises(RequestCrashes, match="3 times"):
        await whole(bad)
    async with epoch(coordinator, 4):
        assert await whole(good) == "".join(map(chr, continuation(PROMPTS[1], 900)))


async def test_lost_machines_never_count_against_a_request() -> None:
    coordinator = make_coordinator()
    generation = None
    for number in range(1, 7):
        async with epoch(coordinator, number) as ranks:
            generation = generation or coordinator.submit(Order(PROMPTS[0], GREEDY, 900))
            await wait_for(lambda ranks=ranks: ranks.steps)
            await breaks(coordinator, ranks, EpochEnded("a cable was pulled"))
    async with epoch(coordinator, 7):
        assert generation is not None
        assert await whole(generation) == "".join(map(chr, continuation(PROMPTS[0], 900)))


async def test_a_smaller_cluster_refuses_what_does_not_fit_any_more() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator, 1):
        large = coordinator.submit(Order(PROMPTS[0], GREEDY, 900))
        small = coordinator.submit(Order(PROMPTS[1], GREEDY, 100))
    coordinator.limits = Limits(parked=0, kv_tokens=500)
    async with epoch(coordinator, 2):
        with pytest.raises(EpochEnded, match="smaller"):
            await whole(large)
        assert await whole(small) == "".join(map(chr, continuation(PROMPTS[1], 100)))
        await wait_for(lambda: not coordinator.live.journal)


async def test_one_that_is_stuck_in_its_first_step_is_found_out_as_soon_as_later() -> None:
    clock = ManualClock()
    coordinator = make_coordinator(clock=clock)
    async with epoch(coordinator, 1) as ranks:
        generation = coordinator.submit(Order(PROMPTS[0], GREEDY, 4000))
        await until(generation, 10)
    for number, allowed in ((2, 4.0), (3, 60.0), (4, 60.0)):  # what was late at once may be right
        async with epoch(coordinator, number, stuck=True) as ranks:
            await wait_for(lambda ranks=ranks: ranks.steps)
            clock.advance(allowed - 0.5)
            coordinator.look()
            clock.advance(1.0)
            with pytest.raises(StepOverdue):
                coordinator.look()
            await breaks(coordinator, ranks, StepOverdue("a step did not finish"))
    async with epoch(coordinator, 5):
        await until(generation, 500)
    assert generation.finish is None
