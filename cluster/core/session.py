"""A session: what two sides say to each other arrives once and in order, over any number of
broken streams.

Each side numbers what it says (1, 2, 3, ...), keeps it until the other has acknowledged it, and
says with every message up to which number it has received. When a stream breaks, both say in the
first message of the next one what they received last, and go on from there. No I/O and no time
here: `put` and then `next` on the way out, `receive` on the way in, `resume` on a new stream.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from cluster.core.errors import ProtocolError

Body = TypeVar("Body")

WINDOW = 64
"""Messages that are kept for the other side at most: those it has not acknowledged."""
ACKNOWLEDGED = 16
"""So many that were received without having been acknowledged with something that went the
other way are acknowledged by themselves. Well below WINDOW, or both sides could wait for ever."""


class Session(Generic[Body]):
    """One side of it."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._kept: deque[Body] = deque()
        """What was put and not acknowledged: the numbers that follow `acknowledged`."""
        self.acknowledged = 0
        """Number of the last message of ours that the other side has."""
        self._written = 0
        """Number of the last one that was given out by `next` on this stream."""
        self.received = 0
        """Number of the last message of the other side that came here."""
        self._told = 0
        """What the other side was told of that."""

    @property
    def kept(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._kept)

    @property
    def full(self) -> bool:
        """`put` would raise."""
        return len(self._kept) >= self._window

    @property
    def owed(self) -> int:
        """Messages received that the other side was not told of on this stream."""
        return self.received - self._told

    @property
    def due(self) -> bool:
        """An acknowledgement should go by itself, without waiting for something to say."""
        return self.owed >= ACKNOWLEDGED

    def put(self, body: Body) -> None:
        """Something to say. Raises ProtocolError when the other side has not acknowledged as
        much as is kept."""
        if self.full:
            raise ProtocolError(
                f"{len(self._kept)} messages are not acknowledged, the oldest has number "
                f"{self.acknowledged + 1}"
            )
        self._kept.append(body)

    def next(self) -> tuple[int, int, Body] | None:
        """What is to be written next, with its number and what it acknowledges; None when all
        was. It may be lost with the stream, and comes again after `resume`."""
        place = self._written - self.acknowledged
        if place == len(self._kept):
            return None
        self._written += 1
        return self._written, self.acknowledge(), self._kept[place]

    def acknowledge(self) -> int:
        """What to acknowledge; it is taken as told."""
        self._told = self.received
        return self.received

    def receive(self, number: int, acknowledged: int) -> bool:
        """A message has come, numbered, or 0 when it only acknowledges. True when it is new,
        False when it came before. Raises ProtocolError when one before it is missing, or it
        acknowledges what was never said; nothing has changed then."""
        if acknowledged > self._written:
            raise ProtocolError(f"message {acknowledged} of {self._written} was acknowledged")
        if number > self.received + 1:
            raise ProtocolError(f"message {number} came after message {self.received}")
        self._forget(acknowledged)
        if number <= self.received:
            return False
        self.received = number
        return True

    def resume(self, received: int) -> None:
        """There is a new stream, and in its first messages we said `received`, and the other
        side has said that it received ours up to the number given. Raises ProtocolError when
        that can't be of this session; nothing has changed then."""
        if not self.acknowledged <= received <= self.acknowledged + len(self._kept):
            raise ProtocolError(
                f"a stream can't go on after message {received}: {self.acknowledged} were "
                f"acknowledged, and {self.acknowledged + len(self._kept)} said"
            )
        self._forget(received)
        self._written = received
        self._told = self.received

    def _forget(self, acknowledged: int) -> None:
        while self.acknowledged < acknowledged:
            self._kept.popleft()
            self.acknowledged += 1
