"""Server-sent events: one stream under way, and its signs of life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
from starlette.types import Send

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or nginx holds events back
]


class EventStream:
    """What is written to one client, in whole frames."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._writing = anyio.Lock(fast_acquire=True)
        self._last = 0.0

    @property
    def quiet(self) -> float:
        """Seconds since anything was last written."""
        return anyio.current_time() - self._last

    async def start(self, more: Mapping[str, str] | None = None) -> None:
        """Send status and headers, now: uvicorn writes them without waiting for a body."""
        ours = [(name.lower().encode(), value.encode()) for name, value in (more or {}).items()]
        headers = [*HEADERS, *ours]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._last = anyio.current_time()

    async def events(self, *data: str) -> None:
        """Send events, each with one line of data."""
        await self._write("".join(f"data: {line}\n\n" for line in data))

    async def comment(self, text: str, *, after: float = 0.0) -> None:
        """Send what clients read over, unless something was sent in the last `after` seconds."""
        await self._write(f": {text}\n\n", after)

    async def end(self, *data: str) -> None:
        """Send the last events and close the body."""
        await self._write("".join(f"data: {line}\n\n" for line in data), more=False)

    async def _write(self, frame: str, after: float = 0.0, *, more: bool = True) -> None:
        async with self._writing:  # with a slow reader, `send` waits
            if self.quiet < after:
                return
            body = frame.encode()
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._last = anyio.current_time()


@asynccontextmanager
async def signs_of_life(
    stream: EventStream, every: float, say: Callable[[], str | None]
) -> AsyncIterator[None]:
    """While in the block, send a comment whenever the stream has been quiet for `every` seconds.

    `say` returns its text, or None when there is no progress to tell of: a cluster that is stuck
    must look stuck.
    """
    async with anyio.create_task_group() as tasks:

        async def speak() -> None:
            while True:
                await anyio.sleep(max(every - stream.quiet, 0.0) or every / 8)
                if stream.quiet >= every and (text := say()) is not None:
                    await stream.comment(text, after=every)

        tasks.start_soon(speak, name="signs_of_life")
        yield
        tasks.cancel_scope.cancel("the stream has ended")
