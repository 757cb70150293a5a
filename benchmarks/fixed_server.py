"""A server of chat completions that computes nothing: each token is written when it is due.

    .venv/bin/python -m benchmarks.fixed_server [--port 8700] [--ttft 0.1] [--itl 0.02]
        [--slots 8]

What a load generator should find is known beforehand, so two of them can be held against it, and
against each other, on a machine whose real servers' speed moves from minute to minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MODEL = "fixed"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is written, and when: seconds from where the request has its slot. The first comes
    with the headers in front."""

    pieces: Sequence[tuple[float, bytes]]
    head: bytes = STREAM
    hang_up: bool = False
    """Close the connection after the last of them."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(content: object) -> bytes:
    """One server-sent event, as a chunk of its own."""
    return chunk(b"data: " + json.dumps(content).encode() + b"\n\n")


def token(text: str = " word", **more: Any) -> bytes:
    """The event of one token."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    return event({"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})


ROLE = event({"model": MODEL, "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
END = event({"model": MODEL, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
DONE = chunk(b"data: [DONE]\n\n") + LAST
TOKEN = token()


def prompt_tokens(body: dict[str, Any]) -> int:
    """A word is a token, and a message costs four more."""
    return sum(len(str(m["content"]).split()) + 4 for m in body["messages"])


def usage(prompt: int, output: int) -> bytes:
    """The event that counts tokens."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return event({"model": MODEL, "choices": [], "usage": counts})


def steady(ttft: float, itl: float) -> Callable[[dict[str, Any]], Reply]:
    """Answers of exactly as many tokens as are asked for, on time."""

    def plan(body: dict[str, Any]) -> Reply:
        count = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        pieces = [(0.0, ROLE), *((ttft + n * itl, TOKEN) for n in range(count))]
        end = END + usage(prompt_tokens(body), count) + DONE
        return Reply([*pieces, (ttft + (count - 1) * itl, end)])

    return plan


@dataclass(slots=True)
class FixedServer:
    """Answers /v1/chat/completions as `plan` says, so many at a time; `bodies` are those of all
    requests so far where they are kept."""

    plan: Callable[[dict[str, Any]], Reply]
    slots: int = 1000
    keep: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hung_up: int = 0
    """Connections that closed in the middle of an answer."""
    connections: int = 0
    """Ever made."""
    port: int = 0
    waiting: deque[_Talk] = field(default_factory=deque)
    busy: int = 0

    def begin(self, talk: _Talk) -> None:
        """`talk` has a request: its turn is now, or when a slot is free."""
        if self.busy < self.slots:
            self.busy += 1
            talk.answer()
        else:
            self.waiting.append(talk)

    def end(self) -> None:
        """A slot is free."""
        self.busy -= 1
        while self.waiting:
            talk = self.waiting.popleft()
            if not talk.gone:
                self.busy += 1
                talk.answer()
                return


class _Talk(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: FixedServer) -> None:
        self._server = server
        self._got = b""
        self._reply: Reply | None = None
        self._answering = False
        self._next = 0
        self._begin = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._timer is not None:
            self._timer.cancel()
        if self._answering:
            self._server.hung_up += 1
            self._answering = False
            self._server.end()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, mark, rest = self._got.partition(b"\r\n\r\n")
        if not mark:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if len(rest) < length:
            return
        self._got = rest[length:]
        method, path, _ = head.split(b" ", 2)
        self._route(method, path, rest[:length])

    def _route(self, method: bytes, path: bytes, body: bytes) -> None:
        if method == b"POST" and path.endswith(b"/v1/chat/completions"):
            asked = json.loads(body)
            if self._server.keep:
                self._server.bodies.append(asked)
            self._reply = self._server.plan(asked)
            self._server.begin(self)
        elif path.endswith(b"/v1/models"):
            self._plain(b"200 OK", {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif path.endswith(b"/health"):
            self._plain(b"200 OK", {})
        else:
            self._plain(b"404 Not Found", {"error": {"message": "no such path"}})

    def _plain(self, status: bytes, content: object) -> None:
        data = json.dumps(content).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(data)) + data)

    def answer(self) -> None:
        """The slot is ours."""
        assert self._reply is not None
        self._answering = True
        self._next = 0
        self._begin = self._loop.time()
        self._transport.write(self._reply.head)
        self._write()

    def _write(self) -> None:
        """All that is due; then wait for what comes next."""
        assert self._reply is not None
        pieces, now = self._reply.pieces, self._loop.time() - self._begin
        while self._next < len(pieces) and pieces[self._next][0] <= now + 1e-4:
            self._transport.write(pieces[self._next][1])
            self._next += 1
        if self._next < len(pieces):
            self._timer = self._loop.call_at(self._begin + pieces[self._next][0], self._write)
            return
        self._answering = False
        if self._reply.hang_up:
            self._transport.close()
        self._server.end()


@asynccontextmanager
async def listening(
    server: FixedServer, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FixedServer]:
    """On a port of loopback, until the block is left."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: _Talk(server), "127.0.0.1", port, backlog=1024, ssl=tls
    )
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


async def serve(server: FixedServer, port: int) -> None:
    """For ever."""
    async with listening(server, port):
        print(f"listening at http://127.0.0.1:{server.port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--ttft", type=float, default=0.1, help="seconds to the first token")
    parser.add_argument("--itl", type=float, default=0.02, help="seconds between tokens")
    parser.add_argument("--slots", type=int, default=8, help="requests at a time")
    options = parser.parse_args()
    server = FixedServer(steady(options.ttft, options.itl), options.slots)
    asyncio.run(serve(server, options.port))


if __name__ == "__main__":
    main()
