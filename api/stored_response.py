"""One response that can be asked for again: its events, and what it is like now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import anyio

from api.convert.openai_responses_items import StoredItem
from cluster.core.errors import OffsetLost

EVENT_BYTES = 4 << 20
"""Most bytes of one response's events; those that came first go first."""


class Live(Protocol):
    """A response that is being written."""

    @property
    def id(self) -> str: ...

    def response(self) -> dict[str, Any]:
        """The response object as of now."""
        ...

    def sign(self) -> str:
        """A sign of life."""
        ...


class Stored:
    """One response, running or over. Except for its fields it is for the event loop alone."""

    def __init__(
        self,
        live: Live,
        items: Sequence[StoredItem],
        *,
        size: int,
        previous: str | None = None,
        background: bool = False,
        event_bytes: int = EVENT_BYTES,
    ) -> None:
        """`items` are its own input; together with what it tells of its request they have about
        `size` bytes."""
        self.id = live.id
        self.items = tuple(items)
        self.previous = previous
        self.background = background
        """It goes on without its client."""
        self.cancel: Callable[[], None] | None = None
        """Stops it; None where only its client's leaving does."""
        self.used = 0.0
        self._live: Live | None = live
        self._final: dict[str, Any] = {}
        self._size = size
        self._events: list[str] = []
        self._first = 0
        """The sequence number of the first event that is held."""
        self._event_bytes = event_bytes
        self._held = 0
        self._changed = anyio.Event()

    @property
    def over(self) -> bool:
        """Nothing of it changes any more."""
        return self._live is None

    @property
    def size(self) -> int:
        """Bytes, about: its output is as large as its events at most."""
        return self._size + self._held

    @property
    def response(self) -> dict[str, Any]:
        """The response object, as of now."""
        return self._final if self._live is None else self._live.response()

    def sign(self) -> str:
        """A sign of life; "" once it is over."""
        return "" if self._live is None else self._live.sign()

    def add(self, frames: str) -> None:
        """Some more events, each whole; other things in a stream of events are no part of it."""
        new = [f"{frame}\n\n" for frame in frames.split("\n\n") if frame.startswith("event:")]
        if not new:
            return
        self._events += new
        self._held += sum(map(len, new))
        while self._held > self._event_bytes:
            # Some at a time: to move all that stay for each that goes would take too long.
            count = max(1, len(self._events) // 8)
            self._held -= sum(map(len, self._events[:count]))
            self._first += count
            del self._events[:count]
        self._tell()

    def end(self) -> None:
        """It is over: as it is now it stays. Twice is as good as once."""
        self._final, self._live = self.response, None
        self.cancel = None
        self._tell()

    def check_place(self, after: int) -> None:
        """Raise OffsetLost unless events can be read from behind number `after`."""
        behind = self._first + len(self._events)
        if not self._first <= after + 1 <= behind:
            raise OffsetLost(
                f"starting_after: events {self._first} to {behind - 1} are held",
                param="starting_after",
            )

    async def follow(self, after: int) -> AsyncIterator[str]:
        """Its events behind number `after`, and those to come, until it is over. Raises
        OffsetLost when they are gone before they are read."""
        place = after + 1
        while True:
            self.check_place(place - 1)
            if new := self._events[place - self._first :]:
                place += len(new)
                yield "".join(new)
            elif self.over:
                return
            else:
                await self._changed.wait()

    async def ended(self) -> None:
        """Wait until it is over."""
        while not self.over:
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
