"""Cancel is an edit: what is in flight is finished, the next step parks, and that is all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.generation import Generation
from cluster.core.ids import Epoch
from cluster.core.request import Finish, Order, Phase
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, make_coordinator

GREEDY = Sampling(temperature=0)
ITERATION = 0.001
"""Seconds that FakeRanks says an iteration takes."""


@pytest.fixture
async def running() -> AsyncIterator[tuple[Coordinator, FakeRanks]]:
    coordinator, ranks = make_coordinator(), FakeRanks()
    driving = asyncio.create_task(drive(coordinator, Epoch(1), ranks, trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    yield coordinator, ranks
    driving.cancel()
    await asyncio.wait([driving])


async def decoding(coordinator: Coordinator, ranks: FakeRanks) -> Generation:
    """A generation in decode, with both steps in flight and their results held back."""
    generation = coordinator.submit(Order((40, 50, 60), GREEDY, 4000))
    await wait_for(lambda: generation.progress.generated > 200)
    ranks.gate.clear()
    scheduler = coordinator.scheduler
    assert scheduler is not None
    await wait_for(lambda: scheduler.steps_in_flight == 2)
    return generation


async def test_cancel_in_decode(running: tuple[Coordinator, FakeRanks]) -> None:
    coordinator, ranks = running
    generation = await decoding(coordinator, ranks)
    in_flight = ranks.steps[-2:]
    assert sum(step.iterations for step in in_flight) * ITERATION <= 0.040
    sent = len(ranks.steps)
    generation.cancel()
    assert generation.finish is Finish.CANCELLED  # at once, for its client
    assert generation.progress.phase is Phase.DRAINING
    ranks.gate.set()
    await wait_for(lambda: not coordinator.live.journal)
    (last,) = ranks.steps[sent:]
    assert last.park or last.release
    assert not last.decode and not last.chunks
    assert len(coordinator.live.channels) == 0
    assert coordinator.live.channels.drained_tokens == sum(step.iterations for step in in_flight)
    assert coordinator.live.channels.orphan_tokens == 0


async def test_leaving_the_block_cancels(running: tuple[Coordinator, FakeRanks]) -> None:
    coordinator, ranks = running
    async with await decoding(coordinator, ranks) as generation:
        ranks.gate.set()
    assert generation.finish is Finish.CANCELLED
    await wait_for(lambda: not coordinator.live.journal)


async def test_cancel_twice_and_after_the_end(running: tuple[Coordinator, FakeRanks]) -> None:
    coordinator, _ = running
    generation = coordinator.submit(Order((40, 50), GREEDY, 3))
    pieces = [piece async for piece in generation]
    assert sum(piece.tokens for piece in pieces) == 3
    generation.cancel()
    generation.cancel()
    assert generation.finish is Finish.LENGTH
    await wait_for(lambda: not coordinator.live.journal)


async def test_cancel_between_epochs() -> None:
    coordinator, ranks = make_coordinator(), FakeRanks()
    driving = asyncio.create_task(drive(coordinator, Epoch(1), ranks, trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    generation = await decoding(coordinator, ranks)
    driving.cancel()
    await asyncio.wait([driving])
    assert generation.finish is None
    assert not coordinator.health().ok
    generation.cancel()
    assert generation.finish is Finish.CANCELLED
    assert len(coordinator.live.journal) == len(coordinator.live.channels) == 0


async def test_cancel_by_id(running: tuple[Coordinator, FakeRanks]) -> None:
    coordinator, ranks = running
    generation = await decoding(coordinator, ranks)
    assert coordinator.cancel(generation.id)
    assert not coordinator.cancel(generation.id)  # it drains, and is over for its client
    assert generation.finish is Finish.CANCELLED
    ranks.gate.set()
    await wait_for(lambda: not coordinator.live.journal)
    assert not coordinator.cancel(generation.id)
