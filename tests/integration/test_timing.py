"""When a request was submitted, begun, answered and over; what it was given, and by which steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.generation import Generation
from cluster.core.clock import ManualClock
from cluster.core.config import Limits
from cluster.core.errors import EpochEnded
from cluster.core.ids import Entry, Epoch
from cluster.core.plan import StepResult
from cluster.core.request import Finish, Order, StepTiming, Timing
from cluster.core.sampling import Sampling
from cluster.core.shelf import Shelved
from tests.conftest import wait_for
from tests.integration.fakes import END, FakeRanks, FakeTokenizer, answer, make_coordinator

GREEDY = Sampling(temperature=0)
PROMPT = tuple(range(40, 140))


class TimedRanks(FakeRanks):
    """Two ranks, the second twice as slow, on a clock that each result moves by a second."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.breaks = False

    async def next_result(self) -> StepResult:
        result = await super().next_result()
        if self.breaks:
            raise EpochEnded("rank 1 exited")
        self._clock.advance(1.0)
        slow = tuple(2 * seconds for seconds in result.chunk_seconds)
        other = replace(result, decode_seconds=2 * result.decode_seconds, chunk_seconds=slow)
        self.results = (result, other)
        return result


@asynccontextmanager
async def running(
    limits: Limits | None = None, *, trimmable: bool = True, shelved: tuple[Shelved, ...] = ()
) -> AsyncIterator[tuple[Coordinator, TimedRanks]]:
    clock = ManualClock(100.0)
    coordinator = make_coordinator(limits=limits, clock=clock)
    ranks = TimedRanks(clock)
    ranks.on_shelf = shelved
    driving = asyncio.create_task(
        drive(coordinator, Epoch(1), ranks, trimmable=trimmable, disk_bytes=1 << 20)
    )
    await wait_for(lambda: coordinator.scheduler)
    yield coordinator, ranks
    driving.cancel()
    await asyncio.wait([driving])


async def over(generation: Generation) -> Timing:
    await wait_for(lambda: generation.finish)
    return generation.timing


async def test_the_parts_of_a_request_add_up() -> None:
    async with running(Limits(parked=0, sequences=1)) as (coordinator, ranks):
        ranks.gate.clear()
        first = coordinator.submit(Order((40, 50), GREEDY, 5))
        second = coordinator.submit(Order((60, 70), GREEDY, 5))
        assert first.timing == Timing(0.0, 0.0, 0.0, 0.0, None)
        ranks.gate.set()
        one, two = await over(first), await over(second)
    assert (one.queued, one.prefill, one.first_token) == (0.0, 1.0, 1.0)
    assert one.decode >= 1.0
    assert one.total == one.prefill + one.decode
    assert two.queued == one.total  # the only slot was taken
    assert two.prefill >= 1.0
    assert two.first_token == two.queued + two.prefill
    assert two.total == two.first_token + two.decode


async def test_a_request_that_never_began_has_only_waited() -> None:
    async with running(Limits(parked=0, sequences=1)) as (coordinator, ranks):
        ranks.gate.clear()
        coordinator.submit(Order((40, 50), GREEDY, 500))
        waiting = coordinator.submit(Order((60, 70), GREEDY, 5))
        await wait_for(lambda: ranks.steps)
        ranks._clock.advance(3.0)
        waiting.cancel()
        assert waiting.timing == Timing(3.0, 0.0, 0.0, 3.0, None)
        assert waiting.ids == ()


async def test_a_request_that_ends_between_epochs_has_its_times() -> None:
    async with running() as (coordinator, ranks):
        generation = coordinator.submit(Order((40, 50), GREEDY, 2000))
        await wait_for(lambda: generation.progress.generated > 20)
        assert generation.timing.total == 0.0  # it is not over
        ranks.breaks = True
        await wait_for(lambda: coordinator.scheduler is None)
        coordinator.close()
        timing = await over(generation)
    assert generation.finish is Finish.FAILED
    assert timing.prefill == 1.0
    assert timing.total >= timing.prefill + timing.decode > 1.0


async def test_ids_end_before_an_end_id() -> None:
    ids = answer(PROMPT, 8)
    tokenizer = FakeTokenizer()
    tokenizer.end_ids = frozenset({END, ids[3]})
    async with running() as (coordinator, _):
        coordinator.tokenizer = tokenizer  # type: ignore[assignment]
        ended = coordinator.submit(Order(PROMPT, GREEDY, 8))
        endless = coordinator.submit(Order(PROMPT, GREEDY, 8, ignore_eos=True))
        await over(ended)
        await over(endless)
    assert (ended.ids, ended.stop) == (tuple(ids[:3]), None)
    assert ended.usage.completion_tokens == 4
    assert endless.ids == tuple(ids)


async def test_ids_end_with_the_stop_string() -> None:
    ids = answer(PROMPT, 40)
    async with running() as (coordinator, _):
        stop = "".join(map(chr, ids[5:7]))
        generation = coordinator.submit(Order(PROMPT, GREEDY, 40, stop=("never", stop)))
        text = "".join([piece.text async for piece in generation])
    assert text == "".join(map(chr, ids[:5]))
    assert generation.stop == stop
    assert generation.ids == tuple(ids[:7])
    assert generation.usage.completion_tokens == 7


async def test_steps_are_recorded_for_those_who_ask() -> None:
    async with running(Limits(parked=0)) as (coordinator, _):
        asked = coordinator.submit(Order(PROMPT, GREEDY, 30, record_steps=True))
        other = coordinator.submit(Order(PROMPT, GREEDY, 30))
        await over(asked)
        await over(other)
        steps = asked.steps
    assert other.steps == ()
    prefill = [step for step in steps if step.kind == "prefill"]
    decode = [step for step in steps if step.kind == "decode"]
    assert [*prefill, *decode] == list(steps)
    assert sum(step.tokens for step in prefill) == len(PROMPT)
    assert sum(step.tokens for step in decode) == 29  # the first is the prompt's
    assert all(step.seconds[1] == 2 * step.seconds[0] > 0 for step in steps)
    assert prefill[0] == StepTiming("prefill", (0.0064, 0.0128), 64)


async def test_steps_past_the_end_are_not_recorded() -> None:
    async with running() as (coordinator, ranks):
        generation = coordinator.submit(Order(PROMPT, GREEDY, 2000, record_steps=True))
        await wait_for(lambda: generation.progress.generated > 20)
        ranks.gate.clear()
        scheduler = coordinator.scheduler
        assert scheduler is not None
        await wait_for(lambda: scheduler.steps_in_flight == 2)
        generation.cancel()
        steps = generation.steps
        assert steps
        ranks.gate.set()
        await wait_for(lambda: not coordinator.live.journal)
    assert generation.steps == steps


async def test_only_the_latest_steps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.coordinator.live.STEPS_KEPT", 3)
    async with running() as (coordinator, _):
        generation = coordinator.submit(Order(PROMPT, GREEDY, 200, record_steps=True))
        await over(generation)
    assert [step.kind for step in generation.steps] == ["decode"] * 3


async def test_without_the_cache_no_prefix_is_kept_and_none_is_used() -> None:
    async with running(Limits(parked=4)) as (coordinator, _):
        scheduler = coordinator.scheduler
        assert scheduler is not None

        async def cached(*, cache: bool) -> int:
            generation = coordinator.submit(Order(PROMPT, GREEDY, 5, cache=cache))
            await over(generation)
            await wait_for(lambda: scheduler.idle)
            return generation.usage.cached_tokens

        assert await cached(cache=False) == 0
        assert scheduler.parked_slots == 0
        assert scheduler.live_positions == scheduler.parked_positions == 0
        assert await cached(cache=True) == 0  # there is nothing of the one before
        assert scheduler.parked_slots == 1
        assert await cached(cache=False) == 0
        assert scheduler.parked_slots == 1
        assert await cached(cache=True) == len(PROMPT) - 1


async def test_without_the_cache_the_disk_is_left_alone() -> None:
    ids = tuple(range(40, 340))
    async with running(Limits(), shelved=(Shelved(Entry("0" * 32), "", ids, 1000),)) as (
        coordinator,
        ranks,
    ):
        generation = coordinator.submit(Order((*ids, 50, 60), GREEDY, 5, cache=False))
        await over(generation)
        await wait_for(lambda: not coordinator.live.journal)
    assert generation.usage.cached_tokens == 0
    assert ranks.orders == []
    assert not any(step.save for step in ranks.steps)


async def test_without_the_cache_no_snapshot_is_taken() -> None:
    prompt = (*PROMPT, END, *PROMPT, END, 50)
    async with running(Limits(parked=4), trimmable=False) as (coordinator, ranks):
        await over(coordinator.submit(Order(prompt, GREEDY, 5, cache=False)))
        await wait_for(lambda: not coordinator.live.journal)
        assert not any(step.fork or step.park for step in ranks.steps)
        await over(coordinator.submit(Order(prompt, GREEDY, 5)))
        assert any(step.fork for step in ranks.steps)
