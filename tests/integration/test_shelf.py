"""The disk tier, as the coordinator drives it: orders out, news in, and nobody held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS, drive
from cluster.core.config import Limits
from cluster.core.ids import Entry, Epoch
from cluster.core.plan import Save
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, answer, make_coordinator

GREEDY = Sampling(temperature=0)
ENTRY = Entry("0123456789abcdef" * 2)
IDS = tuple(range(40, 340))
SHELVED = Shelved(ENTRY, "", IDS, 1000)


@asynccontextmanager
async def running(ranks: FakeRanks, disk_bytes: int = 1 << 20) -> AsyncIterator[Coordinator]:
    coordinator = make_coordinator(limits=Limits())
    driving = asyncio.create_task(
        drive(coordinator, Epoch(1), ranks, trimmable=True, disk_bytes=disk_bytes)
    )
    await wait_for(lambda: coordinator.scheduler)
    yield coordinator
    assert not driving.done()
    driving.cancel()
    await asyncio.wait([driving])


def on_disk(*shelved: Shelved) -> FakeRanks:
    ranks = FakeRanks()
    ranks.on_shelf = shelved
    return ranks


async def text(coordinator: Coordinator, prompt: tuple[int, ...]) -> None:
    """Ask for ten tokens, and compare them."""
    generation = coordinator.submit(Order(prompt, GREEDY, 10))
    said = "".join([piece.text async for piece in generation])
    assert said == "".join(map(chr, answer(prompt, 10)))


def saves(ranks: FakeRanks) -> list[Save]:
    return [save for step in ranks.steps for save in step.save]


async def test_a_prefix_on_disk_is_staged_and_restored() -> None:
    ranks = on_disk(SHELVED)
    async with running(ranks) as coordinator:
        asking = asyncio.create_task(text(coordinator, (*IDS, 50, 60)))
        await wait_for(lambda: ranks.orders == [ShelfOrder(Verb.STAGE, ENTRY)])
        await text(coordinator, (60, 70))  # another one is not kept waiting
        assert not any(step.restore for step in ranks.steps)
        ranks.news.put_nowait(ShelfNews(Verb.STAGE, ENTRY, True, 1000))
        await asking
        (restoring,) = (step for step in ranks.steps if step.restore)
        assert restoring.chunks[-1].tokens == (50, 60)


async def test_a_prefix_that_can_not_be_read_is_computed_anew() -> None:
    ranks = on_disk(SHELVED)
    async with running(ranks) as coordinator:
        asking = asyncio.create_task(text(coordinator, (*IDS, 50, 60)))
        await wait_for(lambda: ranks.orders)
        ranks.news.put_nowait(ShelfNews(Verb.STAGE, ENTRY, False, reason="truncated"))
        await asking
        assert not any(step.restore for step in ranks.steps)
        await wait_for(lambda: ShelfOrder(Verb.DELETE, ENTRY) in ranks.orders)


async def test_news_that_never_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.scheduler.shelf.STAGE_SECONDS", 2 * WATCH_SECONDS)
    ranks = on_disk(SHELVED)
    async with running(ranks) as coordinator:
        async with asyncio.timeout(5):
            await text(coordinator, (*IDS, 50, 60))
        await wait_for(lambda: ShelfOrder(Verb.UNSTAGE, ENTRY) in ranks.orders)


async def test_a_client_that_leaves_while_its_prefix_is_read() -> None:
    ranks = on_disk(SHELVED)
    async with running(ranks) as coordinator:
        generation = coordinator.submit(Order((*IDS, 50, 60), GREEDY, 10))
        await wait_for(lambda: ranks.orders)
        generation.cancel()
        assert generation.finish is Finish.CANCELLED
        await wait_for(lambda: ranks.orders[1:] == [ShelfOrder(Verb.UNSTAGE, ENTRY)])
        ranks.news.put_nowait(ShelfNews(Verb.STAGE, ENTRY, True, 1000))
        await text(coordinator, (60, 70))
        await wait_for(lambda: not coordinator.live.journal)
        assert len(coordinator.live.channels) == 0


async def test_a_long_prefix_is_saved_and_a_full_disk_is_said_once() -> None:
    ranks = on_disk()
    with structlog.testing.capture_logs() as logs:
        async with running(ranks) as coordinator:
            for first in (35, 36):
                await text(coordinator, (first, *IDS))
            await wait_for(lambda: saves(ranks))
            scheduler = coordinator.scheduler
            assert scheduler is not None
            (save,) = saves(ranks)
            assert save.ids[: len(IDS)] == (35, *IDS[:-1])
            ranks.news.put_nowait(ShelfNews(Verb.SAVE, save.entry, False, full=True))
            await wait_for(lambda: scheduler.disk_full)
            ranks.news.put_nowait(ShelfNews(Verb.SAVE, save.entry, False, full=True))
            await text(coordinator, (37, *IDS))
            assert len(saves(ranks)) == 1
            assert ShelfOrder(Verb.DELETE, save.entry) in ranks.orders
        said = [log["event"] for log in logs]
    assert said == ["the disk is full: from now on, no prefix is saved"]


async def test_without_a_disk_nothing_is_saved_or_staged() -> None:
    ranks = on_disk(SHELVED)
    async with running(ranks, disk_bytes=0) as coordinator:
        await text(coordinator, (*IDS, 50, 60))
        await text(coordinator, (*IDS, 50, 61))
        assert saves(ranks) == []
    assert not [order for order in ranks.orders if order.verb is not Verb.DELETE]
