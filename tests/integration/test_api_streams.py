"""What a raw socket sees: when bytes come, and what a hang-up does."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from cluster.core.request import Finish, Phase
from cluster.core.view import Health
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, Now, question, serving

BEAT = 0.05
"""Seconds between signs of life in these tests."""


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator, BEAT) as port:
        yield port


class Wire:
    """One connection, and all that has come on it."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def post(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        await self.stream.send(head.encode() + data)

    async def until(self, mark: bytes, deadline: float = 5.0) -> bytes:
        """Read on until `mark` has come."""
        with anyio.fail_after(deadline):
            while mark not in self.received:
                self.received += await self.stream.receive()
        return self.received

    async def until_end(self, deadline: float = 5.0) -> bytes:
        with anyio.fail_after(deadline):
            try:
                while True:
                    self.received += await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return self.received

    async def nothing_for(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            pytest.fail(f"nothing was due: {await self.stream.receive()!r}")

    @property
    def socket(self) -> socket.socket:
        raw: socket.socket = self.stream.extra_attributes[anyio.abc.SocketAttribute.raw_socket]()
        return raw


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        yield Wire(stream)


async def test_headers_come_before_anything_is_computed(
    port: int, coordinator: FakeCoordinator
) -> None:
    coordinator.healthy = Health(False, "so that there are no comments")
    gate = Gate()
    coordinator.script = [gate, "Hi"]
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        head = await wire.until(b"\r\n\r\n", 1.0)
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        assert b"x-request-id: req_" in head
        gate.open()
        all_of_it = await wire.until(b"0\r\n\r\n")
    assert all_of_it.count(b"HTTP/1.1") == 1
    assert b"data: [DONE]\n\n" in all_of_it


async def test_an_answer_that_comes_at_once_has_no_comment(
    port: int, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["word "] * 200
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        everything = await wire.until(b"0\r\n\r\n")
    assert b"\n:" not in everything
    assert everything.count(b"word ") == 200


async def test_signs_of_life_in_every_phase(port: int, coordinator: FakeCoordinator) -> None:
    queued, prefill, later, held = Gate(), Gate(), Gate(), Gate()
    coordinator.script = [
        queued, Now(Phase.PREFILL, 3), prefill, Now(Phase.PREFILL, 9), later, 12, held, "Hi",
    ]  # fmt: skip
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        await wire.until(b": queued\n\n")
        queued.open()
        total = len(coordinator.order.prompt)
        await wire.until(f": prefill 3/{total}\n\n".encode())
        prefill.open()
        await wire.until(f": prefill 9/{total}\n\n".encode())
        later.open()
        await wire.until(b": decode 12\n\n")
        held.open()
        everything = await wire.until(b"0\r\n\r\n")
    assert b"[DONE]" in everything
    assert b"\xef\xbf\xbd" not in everything


async def test_no_sign_of_life_of_a_cluster_that_is_stuck(
    port: int, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = [gate, "Hi"]
    coordinator.healthy = Health(False, "a step is past its deadline")
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        await wire.until(b"\r\n\r\n")
        await wire.nothing_for(4 * BEAT)
        coordinator.healthy = Health(True, "serving")
        await wire.until(b": queued\n\n", 1.0)
        gate.open()
        await wire.until(b"[DONE]")


def fin(wire: Wire) -> None:
    wire.socket.shutdown(socket.SHUT_WR)


def reset(wire: Wire) -> None:
    linger = struct.pack("ii", 1, 0)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


HANG_UPS: list[Callable[[Wire], None]] = [fin, reset, lambda _: None]


@pytest.mark.parametrize("hang_up", HANG_UPS, ids=["half-close", "reset", "close"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_hang_up_cancels_at_once_and_quietly(
    port: int,
    coordinator: FakeCoordinator,
    caplog: pytest.LogCaptureFixture,
    hang_up: Callable[[Wire], None],
    stream: bool,
    begun: bool,
    pipelined: bool,
) -> None:
    coordinator.healthy = Health(False, "so that nothing is written: no write may notice")
    gate = Gate()
    coordinator.script = ["Hello", gate] if begun else [gate]
    async with connected(port) as wire:
        await wire.post(question(stream=stream))
        await wait_for(lambda: gate.reached)
        if stream:
            await wire.until(b"Hello" if begun else b"\r\n\r\n")
        if pipelined:
            await wire.stream.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        hang_up(wire)
        if hang_up is not fin:
            await wire.stream.aclose()
        await wait_for(lambda: coordinator.generations[0].closed == 1, 1.0)
        assert coordinator.generations[0].finish is Finish.CANCELLED
        if hang_up is fin:
            rest = await wire.until_end()
            assert b"[DONE]" not in rest
    problems = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert problems == []


async def test_a_half_close_of_one_that_reads_nothing(
    port: int, coordinator: FakeCoordinator
) -> None:
    """The transport's end alone would not be told before all that was written is taken."""
    coordinator.script = ["x" * 100_000 for _ in range(200)]
    async with connected(port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await wire.post(question(stream=True))
        await wait_for(lambda: coordinator.generations)
        fin(wire)
        await wait_for(lambda: coordinator.generations[0].closed == 1, 2.0)
        assert coordinator.generations[0].finish is Finish.CANCELLED


async def test_a_hang_up_in_the_middle_of_the_body(
    port: int, coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(port) as wire:
        await wire.stream.send(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
        )
        fin(wire)
        assert await wire.until_end() == b""
    assert coordinator.generations == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_hang_up_while_the_prompt_is_tokenized(
    port: int,
    coordinator: FakeCoordinator,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reached, proceed, render = threading.Event(), threading.Event(), tokenizer.render

    def slow(*args: Any, **kwargs: Any) -> tuple[int, ...]:
        reached.set()
        proceed.wait(10)
        return render(*args, **kwargs)

    monkeypatch.setattr(tokenizer, "render", slow)
    async with connected(port) as wire:
        await wire.post(question())
        await wait_for(reached.is_set)
        async with connected(port) as other:  # the loop is free meanwhile
            await other.stream.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            await other.until(b"serving")
        fin(wire)
        await wire.until_end()
    proceed.set()
    monkeypatch.setattr(tokenizer, "render", render)
    async with connected(port) as wire:
        await wire.post(question())
        await wire.until(b"Hello, world")
    assert len(coordinator.generations) == 1
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_crowd_of_which_many_hang_up_leaves_nothing_behind(
    port: int, coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(asyncio.all_tasks())
    gate = Gate()
    coordinator.script = ["Hello", gate, *["日本 "] * 50]
    complete = 0

    async def client(number: int) -> None:
        nonlocal complete
        async with connected(port) as wire:
            leaves = number % 5 == 0
            await wire.post(question(stream=number % 2 == 0, max_tokens=1 if leaves else 2))
            if leaves:
                await wait_for(lambda: gate.reached)
                return  # in whatever state it is
            end = "[DONE]" if number % 2 == 0 else "cached_tokens"
            text = (await wire.until(end.encode(), 20)).decode()
            complete += text.count("日本") == 50

    def living() -> list[int | None]:
        return [g.order.max_tokens for g in coordinator.generations if g.finish is None]

    async with anyio.create_task_group() as clients:
        for number in range(100):
            clients.start_soon(client, number)
        await wait_for(lambda: living() == [2] * 80, 20)
        gate.open()
    assert complete == 80
    finishes = [generation.finish for generation in coordinator.generations]
    assert finishes.count(Finish.STOP) == 80
    assert set(finishes) <= {Finish.STOP, Finish.CANCELLED}
    assert all(generation.closed == 1 for generation in coordinator.generations)
    await wait_for(lambda: len(asyncio.all_tasks()) <= before)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_one_connection_serves_many_requests(port: int, coordinator: FakeCoordinator) -> None:
    async with connected(port) as wire:
        for stream in (True, False, True):
            wire.received = b""
            await wire.post(question(stream=stream))
            await wire.until(b"0\r\n\r\n" if stream else b"cached_tokens")
    assert [g.finish for g in coordinator.generations] == [Finish.STOP] * 3
    assert [g.closed for g in coordinator.generations] == [1] * 3


async def test_requests_sent_ahead_are_answered_in_turn(
    port: int, coordinator: FakeCoordinator
) -> None:
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        await wire.post(question(stream=True))
        with anyio.fail_after(5):
            while wire.received.count(b"[DONE]") < 2:
                wire.received += await wire.stream.receive()
    assert len(coordinator.generations) == 2


async def test_bytes_that_are_no_http_don_t_spoil_the_answer_before_them(
    port: int, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    async with connected(port) as wire:
        await wire.post(question(stream=True))
        await wire.until(b"Hel")
        await wire.stream.send(b"\x00\x01 nonsense\r\n\r\n")
        gate.open()
        answer, done, _ = (await wire.until(b"0\r\n\r\n")).partition(b"[DONE]")
    assert done
    assert b" 400 " not in answer
