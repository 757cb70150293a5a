"""The stream between coordinator and engine over loopback gRPC: steps and results, and beside
them the shelf's orders and news, of one rank and of several together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cluster.coordinator.ranks import Ranks
from cluster.core.cluster import EngineFacts, Hello, ShardPlan
from cluster.core.errors import EpochEnded, NodeUnreachable, ProtocolError, StepRefused
from cluster.core.ids import Entry, Epoch, Rank, Seq
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.core.versions import versions
from cluster.wire.engine_client import EngineClient, connect
from cluster.wire.engine_server import EngineServer
from tests.conftest import wait_for

pytestmark = pytest.mark.anyio

SECRET = "an epoch's secret"
A, B, C = (Entry(letter * 32) for letter in "abc")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


class FakeEngine:
    """Answers each step at once and notes each order; news are put in by the test."""

    def __init__(self, shelved: Sequence[Shelved] = ()) -> None:
        self._shelved = shelved
        self.plan = ShardPlan(1, Rank(0))
        self.answers: asyncio.Queue[StepResult | ShelfNews | ProtocolError] = asyncio.Queue()
        self.orders: list[ShelfOrder] = []

    def hello(self) -> Hello:
        return Hello(Epoch(3), 0, versions(), "digest", self.plan, EngineFacts(True, 1, 2, 0))

    def begin(self) -> Sequence[Shelved]:
        return self._shelved

    def submit(self, step: Step) -> None:
        self.answers.put_nowait(StepResult(step.epoch, step.seq, digest=5))

    def order(self, order: ShelfOrder) -> None:
        if order.entry == C:
            raise StepRefused("no such order")
        self.orders.append(order)

    async def next_answer(self) -> StepResult | ShelfNews:
        answer = await self.answers.get()
        if isinstance(answer, ProtocolError):
            raise answer
        return answer


@asynccontextmanager
async def connected(*engines: FakeEngine) -> AsyncIterator[list[EngineClient]]:
    plans = [ShardPlan(len(engines), Rank(rank), "tensor", "ring") for rank in range(len(engines))]
    async with AsyncExitStack() as stack:
        clients = []
        for engine, plan in zip(engines, plans, strict=True):
            engine.plan = plan
            server = EngineServer(engine, SECRET)
            await server.start("127.0.0.1")
            stack.push_async_callback(server.stop)
            hello = Hello(Epoch(3), 1, versions(), "digest", plan)
            clients.append(await stack.enter_async_context(connect(server.endpoint, SECRET, hello)))
        async with asyncio.timeout(10):
            yield clients


def step(seq: int) -> Step:
    return Step(Epoch(3), Seq(seq))


def shelved(entry: Entry, **changes: Any) -> Shelved:
    fields: dict[str, Any] = {"scope": "key", "ids": (1, 2, 3), "size": 100, "used": 5.0}
    return Shelved(entry, **{**fields, **changes})


def told(entry: Entry, **changes: Any) -> ShelfNews:
    return ShelfNews(Verb.STAGE, entry, **{"ok": True, "size": 100, **changes})


async def test_what_is_on_the_shelf_follows_the_hello() -> None:
    many = [shelved(Entry(f"{i:032x}"), ids=tuple(range(5000)), size=i) for i in range(100)]
    async with connected(FakeEngine(many)) as (client,):
        assert client.shelved == tuple(many)
        await client.send(step(1))
        assert (await client.next_result()).seq == 1


class Less(tuple[Shelved, ...]):
    """Has fewer than it says."""

    __slots__ = ()

    def __len__(self) -> int:
        return super().__len__() + 1


async def test_an_engine_that_says_less_than_it_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.engine_stream.CONNECT_SECONDS", 0.5)
    with pytest.raises(NodeUnreachable, match=r"rank 0 .* says nothing more after 0\.5 s"):
        async with connected(FakeEngine(Less([shelved(A)]))):
            pass


async def test_orders_and_news_go_beside_steps_and_results() -> None:
    engine = FakeEngine()
    async with connected(engine) as (client,):
        news: list[ShelfNews] = []
        client.on_news = news.append
        orders = [ShelfOrder(verb, A) for verb in (Verb.STAGE, Verb.UNSTAGE, Verb.DELETE)]
        for order in orders:
            await client.order(order)
        await wait_for(lambda: engine.orders == orders)
        bad = ShelfNews(Verb.SAVE, B, False, 0, full=True, reason="no space left")
        engine.answers.put_nowait(told(A))
        engine.answers.put_nowait(bad)
        await wait_for(lambda: news == [told(A), bad])  # nobody waits for a result
        await client.send(step(1))
        engine.answers.put_nowait(told(B))
        await client.send(step(2))
        assert [(await client.next_result()).seq for _ in range(2)] == [1, 2]
        await wait_for(lambda: news[2:] == [told(B)])


async def test_an_order_that_is_refused_ends_the_stream() -> None:
    async with connected(FakeEngine()) as (client,):
        await client.order(ShelfOrder(Verb.STAGE, C))
        for _ in range(2):
            with pytest.raises(EpochEnded, match="no such order"):
                await client.next_result()


async def test_an_engine_that_fails_is_heard_by_whoever_waits() -> None:
    engine = FakeEngine()
    async with connected(engine) as (client,):
        waiting = asyncio.create_task(client.next_result())
        engine.answers.put_nowait(ProtocolError("out of luck"))
        with pytest.raises(EpochEnded, match=r"rank 0 .* failed: out of luck"):
            await waiting
        with pytest.raises(EpochEnded, match="out of luck"):
            await client.next_result()


async def test_no_reader_is_left() -> None:
    async with connected(FakeEngine(), FakeEngine()):
        assert len([t for t in asyncio.all_tasks() if t.get_name().startswith("read ")]) == 2
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("read ")]


async def test_only_what_all_ranks_have_is_there() -> None:
    first = FakeEngine([shelved(A), shelved(B), shelved(C, ids=(1, 2))])
    second = FakeEngine([shelved(C), shelved(A, size=300, used=9.0), shelved(Entry("d" * 32))])
    async with connected(first, second) as clients:
        ranks = Ranks(clients)
        assert ranks.shelved() == (shelved(A, size=300, used=9.0),)
        # C is on all of them, but not the same.
        clients[0].shelved = clients[0].shelved[:2]
        clients[1].shelved = clients[1].shelved[1:]
        await ranks.tidy()
        odd = [ShelfOrder(Verb.DELETE, entry) for entry in (B, Entry("d" * 32))]
        await wait_for(lambda: first.orders == second.orders == odd)


async def test_news_count_once_all_ranks_have_told() -> None:
    first, second = FakeEngine(), FakeEngine()
    async with connected(first, second) as clients:
        ranks = Ranks(clients)
        first.answers.put_nowait(told(A, size=100))
        first.answers.put_nowait(told(B))
        second.answers.put_nowait(told(B, ok=False, size=0, full=True, reason="no space"))
        assert await ranks.next_news() == told(B, ok=False, full=True, reason="rank 1: no space")
        # The same once more, before rank 1 has told of the first time.
        first.answers.put_nowait(told(A, ok=False, reason="gone"))
        second.answers.put_nowait(told(A, size=200))
        assert await ranks.next_news() == told(A, size=200)
        second.answers.put_nowait(told(A))
        assert await ranks.next_news() == told(A, ok=False, reason="rank 0: gone")
        assert ranks._told == {}


async def test_a_save_and_a_stage_of_the_same_entry_are_apart() -> None:
    first, second = FakeEngine(), FakeEngine()
    async with connected(first, second) as clients:
        ranks = Ranks(clients)
        first.answers.put_nowait(told(A))
        second.answers.put_nowait(replace(told(A), verb=Verb.SAVE))
        first.answers.put_nowait(replace(told(A), verb=Verb.SAVE))
        assert (await ranks.next_news()).verb is Verb.SAVE
        second.answers.put_nowait(told(A))
        assert (await ranks.next_news()).verb is Verb.STAGE
