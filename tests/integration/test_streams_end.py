"""How streams that outlive their client end, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import ASGIApp

from api.answering import Answer
from api.app import create_app
from api.service import Service
from api.streams import StreamLimits
from cluster.core.clock import ManualClock
from cluster.core.errors import ShuttingDown
from cluster.core.request import Finish
from tests.conftest import wait_for
from tests.integration.streams import (
    CONV,
    KEY,
    LIMITS,
    Server,
    error_of,
    is_closed,
    served,
    text_of,
)
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, running


async def test_deleted(server: Server, coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate]
    async with server.asked("a/b::c") as reader:
        await wait_for(lambda: gate.reached)
        assert (await server.http.delete("/v1/stream/a/b::c")).status_code == 204
        ended = b"".join([part async for part in reader.aiter_raw()])
    assert text_of(ended) == "Hi"
    assert error_of(ended) == "interrupted"
    await wait_for(lambda: coordinator.generations[0].closed == 1)
    assert coordinator.generations[0].finish is Finish.CANCELLED
    assert (await server.get("a/b::c")).status_code == 404
    for path in ("/v1/stream/a/b::c", "/stream?conv_id=never"):
        assert (await server.http.delete(path)).status_code == 204
    assert server.nothing_left


async def test_expired(server: Server) -> None:
    await server.ask("c")
    server.clock.advance(LIMITS.keep_seconds - 1)
    server.streams.sweep()
    assert (await server.get("c")).status_code == 200
    server.clock.advance(1)
    server.streams.sweep()
    gone = await server.get("c")
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "not_found"
    assert server.nothing_left


async def test_an_orphan_is_cancelled_after_its_lease(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gates = [Gate(), Gate()]
    coordinator.scripts = [["Hi", gates[0]], ["Hi", gates[1]]]
    await server.begin(gates[0], "short", X_Stream_Lease="5.5")
    await server.begin(gates[1], "usual")
    async with server.http.stream("GET", "/stream/short"):
        server.clock.advance(60)
        server.streams.sweep()  # somebody follows it
        assert [g.finish for g in coordinator.generations] == [None, None]
    await wait_for(lambda: not server.streams.of_conversation("", "short").followers)  # type: ignore[union-attr]
    server.clock.advance(5.5)
    server.streams.sweep()
    await wait_for(lambda: coordinator.generations[0].finish is Finish.CANCELLED)
    assert error_of((await server.get("short")).content) == "interrupted"
    assert coordinator.generations[1].finish is None
    server.clock.advance(LIMITS.lease_seconds)
    server.streams.sweep()
    await wait_for(lambda: coordinator.generations[1].finish is Finish.CANCELLED)


async def test_no_lease_at_all_and_a_lease_that_nobody_has_to_remind_of(
    coordinator: FakeCoordinator,
) -> None:
    coordinator.scripts = [["Hi", Gate()], ["Hi", Gate()]]
    app = create_app(coordinator)
    async with running(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        server = Server(app.state.service, ManualClock(), http)
        for number, lease in enumerate(("0", "0.05")):
            async with server.asked(f"c{number}", X_Stream_Lease=lease):
                pass
            await wait_for(partial(is_closed, coordinator, number))
    assert {g.finish for g in coordinator.generations} == {Finish.CANCELLED}


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (StreamLimits(streams=3), ["c2", "c3", "c4"]),
        (StreamLimits(total_bytes=1000), ["c4"]),  # room for one, made when the next one begins
    ],
)
async def test_the_oldest_that_have_ended_make_room(
    coordinator: FakeCoordinator, limits: StreamLimits, kept: list[str]
) -> None:
    async with served(coordinator, limits) as server:
        for number in range(5):
            await server.ask(f"c{number}")
            server.clock.advance(1)
        assert [s.terms.conversation for s in server.streams._all] == kept


async def test_no_more_streams_run_than_are_kept(coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate]
    async with served(coordinator, StreamLimits(streams=2)) as server:
        async with server.asked("a"), server.asked("b"):
            full = await server.ask("c")
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "queue_full"
            gate.open()
        assert "Hi" in (await server.ask("c")).text


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    named: dict[str, str],
    body: Any = None,
    leave: bytes = b"",
) -> bytes:
    """A request without a socket; the client leaves when it has read `leave`."""
    left, got = anyio.Event(), b""
    ahead = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> Any:
        if not ahead:
            await left.wait()
        return ahead.pop() if ahead else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal got
        got += message.get("body", b"")
        if leave and leave in got:
            left.set()

    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    scope = {
        "type": "http", "method": method, "path": path, "headers": headers, "query_string": b""
    }  # fmt: skip
    await app(scope, receive, send)
    return got


async def test_a_thousand_conversations_leave_nothing_behind(
    coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    limits, clock, never = StreamLimits(), ManualClock(), Gate()
    app = create_app(coordinator, streams=limits, clock=clock)
    service: Service = app.state.service
    ask = partial(call, app, "POST", CHAT, body=question(stream=True))

    async def conversation(number: int) -> None:
        name, path = {CONV: f"c{number}"}, f"/v1/stream/c{number}"
        ways = number % 5
        if ways >= 2:
            coordinator.scripts = [["Hi", never]]
        match ways:
            case 0:
                await ask(name)
            case 1:
                await ask(name | {KEY: f"k{number}"})
                await call(app, "GET", path, {})
            case 2:
                await ask(name, leave=b"Hi")
            case 3:
                await ask(name, leave=b"Hi")
                await call(app, "DELETE", path, {})
            case 4:
                await ask(name, leave=b"Hi")
                await ask(name, body=question(stream=True, seed=1))

    before = len(asyncio.all_tasks())
    async with service:
        for number in range(1000):
            await conversation(number)
        streams = service.streams
        assert len(coordinator.generations) == 1200
        assert len(streams) == 800
        assert streams.held > 0
        for seconds in (limits.lease_seconds, limits.keep_seconds):
            clock.advance(seconds)
            streams.sweep()
        assert not (streams._all or streams._by_conversation or streams._by_key)
        await wait_for(lambda: all(g.closed == 1 for g in coordinator.generations))
        await wait_for(lambda: len(asyncio.all_tasks()) <= before + 1)
    assert len(asyncio.all_tasks()) == before
    finishes = [generation.finish for generation in coordinator.generations]
    assert (finishes.count(Finish.STOP), finishes.count(Finish.CANCELLED)) == (600, 600)
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


async def test_shutdown_ends_every_reader(server: Server, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hi", Gate()]
    async with server.asked("c") as first, server.http.stream("GET", "/stream/c") as second:
        await wait_for(lambda: sum(s.followers for s in server.streams._all) == 2)
        await server.streams.aclose()
        for reader in (first, second):
            ended = b"".join([part async for part in reader.aiter_raw()])
            assert error_of(ended) == "shutting_down"
    assert (await server.ask("c")).status_code == 503
    await wait_for(lambda: coordinator.generations[0].closed == 1)
    assert server.nothing_left


async def test_the_coordinator_s_end_ends_orphans(coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate, ShuttingDown("the server is stopping", retry_after=5)]
    async with served(coordinator) as server:
        await server.begin(gate, "c")
        gate.open()
    assert coordinator.generations[0].closed == 1


async def test_a_server_that_stops_leaves_no_orphan(coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate]
    async with served(coordinator) as server:
        await server.begin(gate, "c")
        assert coordinator.generations[0].closed == 0
    assert coordinator.generations[0].closed == 1


async def test_a_bug_in_one_answer_spares_the_others(
    server: Server, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    coordinator.scripts = [["Hel", gate, "lo"]]
    await server.begin(gate, "good")

    def broken(self: Answer, piece: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Answer, "take", broken)
        failed = (await server.ask("bad")).content
    assert b"a bug in Tandem" in failed
    assert b"[DONE]" not in failed
    gate.open()
    assert text_of((await server.get("good")).content) == "Hello"
    assert "world" in (await server.ask("bad")).text


async def test_a_whole_answer_that_can_t_be_written_is_no_success(
    server: Server, coordinator: FakeCoordinator
) -> None:
    coordinator.scripts = [["half a character: \ud800"]]
    failed = await server.ask("bad", body=question())
    assert failed.status_code == 500
    assert "a bug in Tandem" in failed.text
