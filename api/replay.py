"""The bytes of one answer, held so that any number of readers may read them again, each from a
place of its own. No I/O and no clock of its own: only readers wait, for the next bytes.

The format of events is that of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Mapping

import anyio

from cluster.core.clock import Clock
from cluster.core.errors import OffsetLost, TandemError

READ_BYTES = 65536
"""What a reader takes at a time, when it has that much to catch up."""

EVENT_STREAM = "text/event-stream"


class Replay:
    """A bounded buffer of whole events, as an `api.sse.Sink`.

    Offsets count the bytes of the answer from 0. In a stream of server-sent events each event,
    but no comment, gets the line `id: N`, where N is the offset just behind it: it is what a
    client sends back as Last-Event-ID.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        """At most `limit` bytes are held, or the newest event alone if it has more."""
        self.started = anyio.Event()
        """Set once status, content type and headers are known."""
        self.status = 200
        self.content_type = ""
        self.headers: Mapping[str, str] = {}
        self.error: TandemError | None = None
        """Why the answer is not whole."""
        self.ended_at: float | None = None
        """By the clock; None while more may come."""
        self._limit = limit
        self._clock = clock
        self._held = bytearray()
        self._earliest = 0
        self._ends: deque[int] = deque()
        """Of the events and comments that are held."""
        self._changed = anyio.Event()
        self._last = clock.now()

    @property
    def earliest(self) -> int:
        """The lowest offset that can still be read."""
        return self._earliest

    @property
    def total(self) -> int:
        """Bytes of the answer so far."""
        return self._earliest + len(self._held)

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self._held)

    @property
    def quiet(self) -> float:
        """See Sink."""
        return self._clock.now() - self._last

    def begin(self, content_type: str, headers: Mapping[str, str], status: int = 200) -> None:
        """What comes before the body; only the first call counts."""
        if not self.started.is_set():
            self.content_type, self.headers, self.status = content_type, headers, status
            self.started.set()

    def append(self, frames: str) -> None:
        """Some more of the body, whole events or lines; after the end it is left out."""
        if not frames or self.ended_at is not None:
            return
        if self.content_type.startswith(EVENT_STREAM):
            for block in frames.split("\n\n"):
                if block:
                    self._add_event(block)
        else:
            self._add(frames.encode())
        self._drop()
        self._last = self._clock.now()
        self._wake()

    def finish(self, frames: str, error: TandemError | None = None) -> None:
        """The last of the body, and why it is not whole. Only the first call counts."""
        if self.ended_at is None:
            self.error = self.error or error
            self.append(frames)
            self.ended_at = self._clock.now()
            self._wake()

    def take(self, offset: int) -> bytes:
        """What is held from `offset` on, to the end of an event; b"" at the end of what there is.

        Raises OffsetLost when `offset` is not, or no longer, or not yet, in the stream.
        """
        if not self._earliest <= offset <= self.total:
            raise OffsetLost(
                f"this stream can't be read from byte {offset}: bytes {self._earliest} to "
                f"{self.total} are held; read from {self._earliest}",
                param="from",
            )
        end = self.total
        if end - offset > READ_BYTES:
            index = bisect_right(self._ends, offset + READ_BYTES)
            if index == 0 or self._ends[index - 1] <= offset:
                index += 1  # one event that has more
            end = self._ends[index - 1]
        return bytes(self._held[offset - self._earliest : end - self._earliest])

    def event_at(self, offset: int) -> int:
        """`offset` itself where an event begins or ends, else where the one around it begins."""
        if not self._earliest < offset < self.total:
            return offset
        index = bisect_right(self._ends, offset)
        return self._ends[index - 1] if index else self._earliest

    async def read(self, offset: int) -> AsyncIterator[bytes]:
        """All from `offset` on, as it comes, to the end. Raises OffsetLost at once, or when this
        reader is so slow that what comes next for it is no longer held; that is never in the
        middle of an event, unless `offset` was."""
        while True:
            if part := self.take(offset):
                offset += len(part)
                yield part
            elif self.ended_at is not None:
                return
            else:
                await self._changed.wait()

    async def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """See Sink."""
        self.begin(content_type, headers)

    async def write(self, frames: str) -> None:
        """See Sink."""
        self.append(frames)

    async def sign(self, frames: str, after: float) -> None:
        """See Sink."""
        if self.quiet >= after:
            self.append(frames)

    def fail(self, error: TandemError) -> None:
        """See Sink."""
        self.error = error

    async def end(self, frames: str) -> None:
        """See Sink."""
        self.finish(frames)

    def _add_event(self, block: str) -> None:
        if block.startswith(":"):
            self._add(f"{block}\n\n".encode())
            return
        event = f"{block}\nid: ".encode()
        # The offset counts its own digits.
        known = self.total + len(event) + len("\n\n")
        behind = known + len(str(known))
        behind = known + len(str(behind))
        self._add(event + f"{behind}\n\n".encode())

    def _add(self, block: bytes) -> None:
        self._held += block
        self._ends.append(self.total)

    def _drop(self) -> None:
        first = self._earliest
        while self.total - first > self._limit and len(self._ends) > 1:
            first = self._ends.popleft()
        del self._held[: first - self._earliest]
        self._earliest = first

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
