"""Streams that outlive their client are followed again, over real HTTP."""

from __future__ import annotations

import json
import re
import socket
import threading
from typing import Any

import anyio
import pytest

from cluster.core.errors import QueueFull as Full
from cluster.core.request import Finish
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.integration.streams import (
    BEAT,
    CONV,
    HELLO,
    KEY,
    Server,
    error_of,
    next_of,
    served,
    text_of,
)
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question


async def test_a_plain_request_is_as_it_was(server: Server, coordinator: FakeCoordinator) -> None:
    response = await server.ask()
    assert text_of(response.content) == "".join(HELLO)
    assert b"\nid: " not in response.content
    assert not {CONV.lower(), "idempotent-replayed"} & set(response.headers)
    assert server.nothing_left


async def test_it_goes_on_without_its_client_and_is_followed_again(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    async with server.asked("c") as response:
        assert response.headers[CONV] == "c"
        got = await next_of(response.aiter_raw(), b"Hel")
    await wait_for(lambda: not next(iter(server.streams._all)).followers)
    async with server.http.stream("GET", f"/v1/stream?conv_id=c&from={len(got)}") as again:
        assert again.headers["content-type"].startswith("text/event-stream")
        rest = again.aiter_raw()
        gate.open()
        got += await next_of(rest, b"[DONE]")
    assert text_of(got) == "Hello"
    assert (await server.get("c")).content == got
    assert coordinator.generations[0].finish is Finish.STOP
    assert len(coordinator.generations) == 1


async def test_its_client_may_leave_while_the_prompt_is_tokenized(
    server: Server, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, proceed, render = threading.Event(), threading.Event(), tokenizer.render

    def slow(*args: Any, **kwargs: Any) -> tuple[int, ...]:
        reached.set()
        proceed.wait(10)
        return render(*args, **kwargs)

    monkeypatch.setattr(tokenizer, "render", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.ask, "c")
        await wait_for(reached.is_set)
        tasks.cancel_scope.cancel()
    proceed.set()
    await wait_for(lambda: len(server.streams) == 1)
    assert text_of((await server.get("c")).content) == "".join(HELLO)


async def test_cut_and_resumed(server: Server) -> None:
    whole = (await server.ask("c")).content
    for cut in (*range(0, len(whole), 97), len(whole) - 1, len(whole)):
        assert whole[:cut] + (await server.get("c", at=cut)).content == whole
    ends = [found.end() for found in re.finditer(rb"id: \d+\n\n", whole)]
    for end in (ends[0], ends[2], ends[-1]):
        resumed = await server.get("c", at=7, last_event_id=str(end))
        assert resumed.content == whole[end:]
    inside = await server.get("c", last_event_id=str(ends[1] + 3))
    assert inside.content == whole[ends[1] :]
    head = await server.http.head("/stream/c")
    assert (head.status_code, head.content) == (200, b"")


async def test_fifty_readers(server: Server, coordinator: FakeCoordinator) -> None:
    gate, later = Gate(), Gate()
    coordinator.script = ["Hel", gate, "lo", later, *["日本 "] * 100]
    got: dict[int, bytes] = {}

    async def read(number: int) -> None:
        got[number] = (await server.get("c", at=number)).content

    async with server.asked("c") as first, anyio.create_task_group() as readers:
        stream = next(iter(server.streams._all))
        for number in range(50):
            readers.start_soon(read, number)
            if number == 25:
                await wait_for(lambda: stream.followers >= 20)
                gate.open()
        await wait_for(lambda: stream.followers == 51)
        later.open()
        whole = b"".join([part async for part in first.aiter_raw()])
    assert text_of(whole) == "Hello" + "日本 " * 100
    assert all(text == whole[number:] for number, text in got.items())
    assert len(got) == 50


async def test_a_new_request_takes_the_place_of_the_one_before(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["old", gate]
    async with server.asked("c") as old, server.http.stream("GET", "/stream/c") as follower:
        await wait_for(lambda: gate.reached)
        bad = await server.ask("c", body=question(stream=True, temperature="hot"))
        coordinator.refuse = Full("full", retry_after=1)
        full = await server.ask("c", body=question(stream=True, seed=1))
        assert (bad.status_code, full.status_code) == (400, 429)
        assert coordinator.generations[0].finish is None
        coordinator.refuse, coordinator.script = None, [*HELLO]
        new = await server.ask("c", body=question(stream=True, seed=1))
        for reader in (old, follower):
            ended = b"".join([part async for part in reader.aiter_raw()])
            assert "old" in text_of(ended)
            assert error_of(ended) == "replaced"
    assert coordinator.generations[0].finish is Finish.CANCELLED
    assert coordinator.generations[0].closed == 1
    assert (await server.get("c")).content == new.content
    assert len(server.streams) == 1


async def test_a_reader_that_is_overtaken_is_told_in_the_stream(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["first", gate, *["x" * 100_000] * 100]
    await server.begin(gate, "c")
    port = server.http.base_url.port or 0
    async with await anyio.connect_tcp("127.0.0.1", port) as slow:
        raw = slow.extra_attributes[anyio.abc.SocketAttribute.raw_socket]()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await slow.send(b"GET /v1/stream/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = await slow.receive()
        gate.open()
        await wait_for(lambda: coordinator.generations[0].closed)
        lost = await server.get("c")
        with anyio.fail_after(5):
            try:
                while True:
                    received += await slow.receive()
            except anyio.EndOfStream:
                pass
    event = re.search(rb"\n\n\r\n[0-9a-f]+\r\ndata: (.*)\n\n\r\n0\r\n\r\n$", received)
    assert event
    assert json.loads(event[1])["error"]["code"] == "offset_lost"
    assert b"[DONE]" not in received
    earliest = server.streams.of_conversation("", "c").replay.earliest  # type: ignore[union-attr]
    assert lost.status_code == 400
    assert lost.json()["error"]["code"] == "offset_lost"
    assert f"read from {earliest}" in lost.json()["error"]["message"]
    assert lost.headers["X-Stream-Earliest"] == str(earliest)
    assert b"[DONE]" in (await server.get("c", at=earliest)).content


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, "?from=-1"), ({}, "?from=x"), ({"Last-Event-ID": "1.5"}, ""), ({}, "?from=" + "9" * 30)],
)
async def test_an_offset_that_is_none(server: Server, headers: dict[str, str], query: str) -> None:
    await server.ask("c")
    refused = await server.http.get("/v1/stream/c" + query, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in ("from", "Last-Event-ID")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (CONV, ""), (CONV, "a b"), (CONV, "x" * 257), (KEY, "\xe4"), (KEY, ""),
        ("X-Stream-Lease", "3601"), ("X-Stream-Lease", "-1"), ("X-Stream-Lease", "soon"),
    ],
)  # fmt: skip
async def test_a_header_that_makes_no_sense(
    server: Server, coordinator: FakeCoordinator, header: str, value: str
) -> None:
    refused = await server.http.post(
        CHAT, json=question(), headers=[(header.encode(), value.encode("latin-1"))]
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == header
    assert not coordinator.generations


async def test_lookup_answers_for_what_is_asked(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    whole = (await server.ask("a")).content
    for name in ("a::b", "a::b::c", "aa", "b"):
        await server.ask(name)
    coordinator.script = ["Hi", gate]
    await server.begin(gate, "r")

    async def lookup(*ids: str, **headers: str) -> list[dict[str, Any]]:
        body = {"conversation_ids": ids}
        response = await server.http.post(
            "/v1/streams/lookup", json=body, headers=server.asking(**headers)
        )
        assert response.status_code == 200
        found: list[dict[str, Any]] = response.json()
        return found

    found = await lookup("a", "r", "none")
    assert {each["conversation_id"] for each in found} == {"a", "a::b", "a::b::c", "r"}
    done, runs = found[0], found[-1]
    assert (done["is_done"], done["total_bytes"], done["earliest_offset"]) == (True, len(whole), 0)
    assert done["completed_at"] >= done["started_at"] > 1.7e9
    assert (runs["is_done"], runs["completed_at"]) == (False, 0)
    assert await lookup() == await lookup("a", x_owner="other") == []
    assert [each["conversation_id"] for each in await lookup("a::b::c")] == ["a::b::c"]
    for body in ({}, {"conversation_ids": "a"}, {"conversation_ids": [1]},
                 {"conversation_ids": [""]}, {"conversation_ids": ["x"] * 1025}):  # fmt: skip
        refused = await server.http.post("/streams/lookup", json=body)
        assert refused.status_code == 400


async def test_signs_of_life_are_the_same_for_every_reader(coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate, "!"]
    async with served(coordinator, beat=BEAT) as server, server.asked("c") as first:
        parts = first.aiter_raw()
        got = await next_of(parts, b": decode 1\n\n")
        gate.open()
        got += await next_of(parts, b"[DONE]")
        assert (await server.get("c")).content == got
