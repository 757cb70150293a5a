"""A stream to an engine that breaks, in all the ways it can, and a coordinator that is replaced."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from cluster.core.cluster import EngineFacts, Hello, ShardPlan
from cluster.core.engine_protocol import StepWindow
from cluster.core.errors import EpochEnded, NodeLost, NotAuthorized, ProtocolError, TandemError
from cluster.core.ids import Entry, Epoch, Rank, Seq
from cluster.core.plan import Step, StepResult
from cluster.core.session import WINDOW
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.core.versions import versions
from cluster.wire.engine_client import EngineClient, connect
from cluster.wire.engine_server import EngineServer
from tests.conftest import wait_for
from tests.integration.cutter import Cutter, cutting

pytestmark = pytest.mark.anyio

SECRET = "an epoch's secret"
EPOCH = Epoch(3)
HELLO = Hello(EPOCH, 1, versions(), "digest", ShardPlan(1, Rank(0)))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


class FakeEngine:
    """Checks steps as an engine does, and answers each when it is let."""

    def __init__(self) -> None:
        self.window = StepWindow(EPOCH)
        self.answers: asyncio.Queue[StepResult | ShelfNews | ProtocolError] = asyncio.Queue()
        self.under_way: list[Step] = []
        self.held = False
        """Steps are not done."""
        self.orders: list[ShelfOrder] = []
        self.began = 0

    def hello(self) -> Hello:
        facts = EngineFacts(True, 1, 2, self.window.answered, taken=self.window.taken)
        return replace(HELLO, incarnation=0, facts=facts)

    def begin(self) -> tuple[Shelved, ...]:
        self.began += 1
        self.window.reset()
        self.answers = asyncio.Queue()
        return ()

    def submit(self, step: Step) -> None:
        self.window.take(step)
        self.under_way.append(step)
        if not self.held:
            self.release()

    def release(self) -> None:
        """Steps are done from now on."""
        self.held = False
        for step in self.under_way:
            if self.window.answer():
                self.answers.put_nowait(StepResult(step.epoch, step.seq, digest=5))
        self.under_way = []

    def order(self, order: ShelfOrder) -> None:
        self.orders.append(order)
        self.answers.put_nowait(ShelfNews(Verb.STAGE, order.entry, ok=True))

    async def next_answer(self) -> StepResult | ShelfNews:
        answer = await self.answers.get()
        if isinstance(answer, ProtocolError):
            self.answers.put_nowait(answer)
            raise answer
        return answer


@asynccontextmanager
async def served(engine: FakeEngine) -> AsyncIterator[str]:
    server = EngineServer(engine, SECRET)
    await server.start("127.0.0.1")
    try:
        async with asyncio.timeout(30):
            yield server.endpoint
    finally:
        await server.stop()


@asynccontextmanager
async def through(engine: FakeEngine, seed: int = 0) -> AsyncIterator[tuple[Cutter, EngineClient]]:
    """A client behind a proxy."""
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(served(engine))
        cutter = await stack.enter_async_context(cutting(endpoint, seed))
        client = await stack.enter_async_context(connect(cutter.endpoint, SECRET, HELLO))
        yield cutter, client


def step(seq: int, size: int = 0) -> Step:
    return Step(EPOCH, Seq(seq), decode=tuple(range(size)), iterations=1 if size else 0)  # type: ignore[arg-type]


def stage(number: int) -> ShelfOrder:
    return ShelfOrder(Verb.STAGE, entry(number))


def entry(number: int) -> Entry:
    return Entry(f"{number:032x}")


async def results(client: EngineClient, count: int) -> list[int]:
    return [(await client.next_result()).seq for _ in range(count)]


async def exchange(client: EngineClient, steps: int, orders: int, rng: random.Random) -> None:
    """Steps, two ahead, and orders between them; all answers come once and in order."""
    news: list[ShelfNews] = []
    client.on_news = news.append
    given = 0
    for seq in range(1, steps + 1):
        if seq > 2:
            assert await results(client, 1) == [seq - 2]
        await client.send(step(seq, rng.choice([0, 10, 1000])))
        while given < orders and given * steps < orders * seq:
            given += 1
            await client.order(stage(given))
    assert await results(client, 2) == [steps - 1, steps]
    await wait_for(lambda: len(news) == orders, 20)
    assert [each.entry for each in news] == list(map(entry, range(1, orders + 1)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.next_result()


@pytest.mark.parametrize("seed", range(3))
async def test_cut_at_any_byte(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.engine_client.PAUSES", (0.005,))
    engine = FakeEngine()
    async with through(engine, seed) as (cutter, client):
        cutter.most = 4000
        cutter.cut()
        await exchange(client, 80, 40, random.Random(seed))
        assert cutter.count > 10
        assert engine.orders == list(map(stage, range(1, 41)))
        assert engine.window.taken == 80
        assert engine.began == 1


async def test_cut_while_idle() -> None:
    engine = FakeEngine()
    async with through(engine) as (cutter, client):
        for seq in (1, 2, 3):
            count = cutter.count
            cutter.cut()
            await wait_for(lambda count=count: cutter.count > count)
            await client.send(step(seq))
            assert await results(client, 1) == [seq]
        # The engine has something to say first.
        news: list[ShelfNews] = []
        client.on_news = news.append
        cutter.cut()
        told = ShelfNews(Verb.SAVE, entry(1), ok=True)
        engine.answers.put_nowait(told)
        await wait_for(lambda: news == [told])


async def test_the_engine_goes_on_while_no_stream_is_open() -> None:
    engine = FakeEngine()
    engine.held = True
    async with through(engine) as (cutter, client):
        await client.send(step(1))
        await wait_for(lambda: engine.under_way)
        cutter.refuses = True
        cutter.cut()
        await client.send(step(2))  # kept, and sent later
        engine.release()
        cutter.refuses = False
        assert await results(client, 2) == [1, 2]


async def test_more_is_sent_during_a_break_than_is_kept() -> None:
    engine = FakeEngine()
    async with through(engine) as (cutter, client):
        cutter.refuses = True
        cutter.cut()
        orders = [stage(number) for number in range(3 * WINDOW)]

        async def send() -> None:
            for order in orders:
                await client.order(order)

        sending = asyncio.create_task(send())
        await wait_for(lambda: client._session.full)
        assert not sending.done()
        cutter.refuses = False
        await sending
        await wait_for(lambda: engine.orders == orders)


@pytest.mark.parametrize("told", [True, False], ids=["one side knows", "nobody knows"])
async def test_half_open(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is not told that the old stream is gone, and takes the new one at once."""
    monkeypatch.setattr("cluster.wire.engine_client.SILENT_SECONDS", 0.2)
    monkeypatch.setattr("cluster.wire.engine_client.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("cluster.wire.line.ACK_SECONDS", 0.05)
    engine = FakeEngine()
    async with through(engine) as (cutter, client):
        await client.send(step(1))
        assert await results(client, 1) == [1]
        cutter.lose(told=told)
        await client.send(step(2))
        async with asyncio.timeout(5):
            assert await results(client, 1) == [2]
        assert cutter.count <= 3  # the first, one to look whether somebody listens, the second


async def test_a_long_step_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.engine_client.SILENT_SECONDS", 0.4)
    monkeypatch.setattr("cluster.wire.engine_client.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("cluster.wire.line.ACK_SECONDS", 0.05)
    engine = FakeEngine()
    engine.held = True
    async with through(engine) as (cutter, client):
        await client.send(step(1))
        await wait_for(lambda: client._session.kept == 0)  # acknowledged, not answered
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):
                await client.next_result()
        assert cutter.count == 1
        engine.release()
        assert await results(client, 1) == [1]


async def test_it_stays_small_when_only_one_side_speaks() -> None:
    engine = FakeEngine()
    async with through(engine) as (_, client):
        news: list[ShelfNews] = []
        client.on_news = news.append
        for number in range(4 * WINDOW):
            engine.answers.put_nowait(ShelfNews(Verb.SAVE, entry(number), ok=True))
        await wait_for(lambda: len(news) == 4 * WINDOW)


async def ended(client: EngineClient, kind: type[TandemError] = EpochEnded) -> str:
    with pytest.raises(kind) as caught:
        await client.next_result()
    assert type(caught.value) is kind  # a subclass says something else (membership/epochs.py)
    with pytest.raises(kind):
        await client.send(step(9))
    return str(caught.value)


async def test_an_engine_that_is_gone_ends_it_soon() -> None:
    engine = FakeEngine()
    async with AsyncExitStack() as stack:
        server = EngineServer(engine, SECRET)
        await server.start("127.0.0.1")
        client = await stack.enter_async_context(connect(server.endpoint, SECRET, HELLO))
        await server.stop()
        async with asyncio.timeout(3):
            assert "refused 3 connections" in await ended(client)


async def test_an_engine_that_does_not_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.engine_client.RESUME_SECONDS", 1.0)
    async with through(FakeEngine()) as (cutter, client):
        cutter.refuses = True
        cutter.cut()
        async with asyncio.timeout(5):
            assert "did not answer" in await ended(client, NodeLost)


async def test_what_breaks_every_stream_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream opens, and breaks at the same message."""
    monkeypatch.setattr("cluster.wire.engine_client.RESUME_SECONDS", 1.0)
    async with through(FakeEngine()) as (cutter, client):
        await client.send_encoded(b"\xff\xff\xff")
        async with asyncio.timeout(10):
            await ended(client)
        assert cutter.count < 40


async def test_a_failure_is_told_on_the_next_stream_too() -> None:
    engine = FakeEngine()
    async with through(engine) as (cutter, client):
        cutter.refuses = True
        cutter.cut()
        engine.answers.put_nowait(ProtocolError("out of luck"))
        cutter.refuses = False
        assert "failed: out of luck" in await ended(client)


async def test_a_step_that_is_refused_ends_it() -> None:
    async with through(FakeEngine()) as (_, client):
        await client.send(step(2))
        assert "step 2 after step 0" in await ended(client)


async def refused(endpoint: str, hello: Hello) -> TandemError:
    with pytest.raises(TandemError) as caught:
        async with connect(endpoint, SECRET, hello):
            pass
    return caught.value


async def test_a_new_coordinator_takes_over() -> None:
    engine = FakeEngine()
    async with served(engine) as endpoint, connect(endpoint, SECRET, HELLO) as old:
        engine.held = True
        await old.send(step(1))
        await old.send(step(2))
        await wait_for(lambda: len(engine.under_way) == 2)
        async with connect(endpoint, SECRET, replace(HELLO, incarnation=2)) as new:
            assert new.hello.facts is not None
            assert (new.hello.facts.last_seq, new.hello.facts.taken) == (0, 2)
            assert "coordinator 1 was replaced by 2" in await ended(old, NotAuthorized)
            await new.send(step(1))
            engine.release()
            assert await results(new, 1) == [1]  # its own, and no other
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await new.next_result()
            assert engine.began == 2
            error = await refused(endpoint, HELLO)
            assert isinstance(error, NotAuthorized)
            assert "coordinator 1 was replaced by 2" in str(error)
            again = await refused(endpoint, replace(HELLO, incarnation=2))
            assert "has a session already" in str(again)
            await new.send(step(2))  # neither did it any harm
            assert await results(new, 1) == [2]


async def test_an_old_coordinator_that_lost_its_stream_is_kept_out() -> None:
    engine = FakeEngine()
    async with through(engine) as (cutter, old):
        cutter.refuses = True
        cutter.cut()
        direct = f"{cutter._host}:{cutter._port}"
        async with connect(direct, SECRET, replace(HELLO, incarnation=2)) as new:
            cutter.refuses = False
            assert "coordinator 1 was replaced by 2" in await ended(old, NotAuthorized)
            await new.send(step(1))
            assert await results(new, 1) == [1]
