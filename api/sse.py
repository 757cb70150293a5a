"""A stream under way, and its signs of life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from starlette.types import Send

from cluster.core.errors import TandemError

HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # or nginx holds events back
}


class Sink(Protocol):
    """Where a stream is written to. Everything written is whole events, or whole lines."""

    @property
    def quiet(self) -> float:
        """Seconds since anything was last written."""
        ...

    async def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Status 200 and headers, now."""
        ...

    async def write(self, frames: str) -> None:
        """Some more of the body; "" does nothing."""
        ...

    async def sign(self, frames: str, after: float) -> None:
        """The same, unless something was written in the last `after` seconds."""
        ...

    def fail(self, error: TandemError) -> None:
        """The answer will not be whole; `end` still comes."""
        ...

    async def end(self, frames: str) -> None:
        """The last of the body."""
        ...


def start_message(
    content_type: str, headers: Mapping[str, str], status: int = 200
) -> dict[str, Any]:
    """ASGI's message that begins an answer."""
    all_of_them = {"content-type": content_type, **HEADERS, **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in all_of_them.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


class Connection:
    """A sink that is one client's connection."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._writing = anyio.Lock(fast_acquire=True)
        self._last = 0.0

    @property
    def quiet(self) -> float:
        """See Sink."""
        return anyio.current_time() - self._last

    async def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """See Sink; uvicorn writes headers without waiting for a body."""
        await self._send(start_message(content_type, headers))
        self._last = anyio.current_time()

    async def write(self, frames: str) -> None:
        """See Sink; with a slow reader it waits."""
        if frames:
            await self._write(frames)

    async def sign(self, frames: str, after: float) -> None:
        """See Sink."""
        await self._write(frames, after)

    def fail(self, error: TandemError) -> None:
        """See Sink; the client is told by the last frames."""

    async def end(self, frames: str) -> None:
        """See Sink."""
        await self._write(frames, more=False)

    async def _write(self, frames: str, after: float = 0.0, *, more: bool = True) -> None:
        async with self._writing:
            if self.quiet < after:
                return
            body = frames.encode()
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._last = anyio.current_time()


@asynccontextmanager
async def signs_of_life(
    sink: Sink, every: float, say: Callable[[], str | None]
) -> AsyncIterator[None]:
    """While in the block, write a sign whenever the stream has been quiet for `every` seconds.

    `say` returns it, or None when there is no progress to tell of: a cluster that is stuck must
    look stuck.
    """
    async with anyio.create_task_group() as tasks:

        async def speak() -> None:
            while True:
                await anyio.sleep(max(every - sink.quiet, 0.0) or every / 8)
                if sink.quiet >= every and (frames := say()) is not None:
                    await sink.sign(frames, after=every)

        tasks.start_soon(speak, name="signs_of_life")
        yield
        tasks.cancel_scope.cancel("the stream has ended")
