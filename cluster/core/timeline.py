"""What happened to one HTTP request and when: noted while it runs, told by traces.

The API makes a Timeline for each request that is traced and hands it on with the orders; without
one nothing is noted anywhere. All times are seconds on the coordinator's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from cluster.core.clock import Clock
from cluster.core.ids import Epoch, RequestId, Seq
from cluster.core.plan import StepTimes
from cluster.core.rank_clock import Offset

Item = TypeVar("Item")
Detail = str | int | float | bool | tuple[str, ...]

FIRST = 512
LATEST = 1536
"""Of each kind of thing, a timeline keeps so many."""


class Track(StrEnum):
    """What an event of the coordinator's process is about."""

    HTTP = "http"
    """Reading the body, rendering and tokenizing."""
    QUEUE = "queue"
    """Waiting for a slot, at first or again; reading a prefix from disk."""
    PHASE = "phase"
    """Prefill and decode as a whole."""
    PARSER = "parser"
    """Taking text apart into what is said, thought and called."""
    SSE = "sse"
    """Writing to the client, or into the buffer of an answer that outlives it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the coordinator's process did for the request, or that it waited for."""

    track: Track
    name: str
    start: float
    end: float
    details: Mapping[str, Detail]


@dataclass(frozen=True, slots=True)
class RankTimes:
    """What one rank says of a step, and how its clock is to be read."""

    times: StepTimes
    offset: Offset


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of the plan that ran while a traced request was live, its own or not."""

    epoch: Epoch
    seq: Seq
    planned: float
    """It was handed over to be sent."""
    applied: float
    """The last rank's result was there, and its tokens began to be handed out."""
    done: float
    """They were handed out; for a step that was lost, when its epoch ended."""
    rows: Mapping[RequestId, int]
    """Requests that its iterations decoded, with how many tokens each got."""
    chunks: tuple[tuple[RequestId, int, int], ...]
    """Of each chunk: whose, first position, tokens."""
    ranks: tuple[RankTimes, ...]
    """By rank; empty when they have told no times."""
    hosts: tuple[str, ...] = ()
    """Names of the machines, by rank."""
    lost: bool = False
    """Its epoch ended before all ranks had answered it."""


class Kept(Generic[Item]):
    """The first and the latest of many."""

    def __init__(self) -> None:
        self._first: list[Item] = []
        self._latest: deque[Item] = deque(maxlen=LATEST)
        self.left_out = 0
        """How many between them are gone."""

    def __iter__(self) -> Iterator[Item]:
        # Copies, since it may be read in another thread while the request goes on.
        yield from tuple(self._first)
        yield from tuple(self._latest)

    def add(self, item: Item) -> None:
        """It is the latest now."""
        if len(self._first) < FIRST:
            self._first.append(item)
            return
        self.left_out += len(self._latest) == LATEST
        self._latest.append(item)


class Timeline:
    """One request, from its first byte to its last."""

    def __init__(self, clock: Clock, owner: str = "", name: str = "", wall: float = 0.0) -> None:
        """`owner` as in Caller; `name` of the HTTP request; `wall` is the Unix time now."""
        self._clock = clock
        self.owner = owner
        self.name = name
        self.wall = wall
        self.started = clock.now()
        self.ended: float | None = None
        """None while it runs."""
        self.requests: list[RequestId] = []
        """One for each answer."""
        self.details: dict[str, Detail] = {}
        """What is known of it as a whole."""
        self.steps: Kept[StepRecord] = Kept()
        self._events: dict[Track, Kept[Event]] = {track: Kept() for track in Track}

    @property
    def now(self) -> float:
        """The time, as it is noted here."""
        return self._clock.now()

    @property
    def events(self) -> list[Event]:
        """All that are kept, by track."""
        return [event for kept in self._events.values() for event in kept]

    @property
    def left_out(self) -> int:
        """Events and steps that were not kept."""
        return self.steps.left_out + sum(kept.left_out for kept in self._events.values())

    def add(self, track: Track, name: str, start: float, **details: Detail) -> None:
        """Something that began at `start` is over now."""
        self._events[track].add(Event(track, name, start, self._clock.now(), details))

    def span(self, track: Track, name: str, start: float, end: float, **details: Detail) -> None:
        """The same, over at `end`."""
        self._events[track].add(Event(track, name, start, end, details))


@contextmanager
def timed(timeline: Timeline | None, track: Track, name: str, **details: Detail) -> Iterator[None]:
    """Note when the block began and ended; does nothing without a timeline."""
    if timeline is None:
        yield
        return
    start = timeline.now
    try:
        yield
    finally:
        timeline.add(track, name, start, **details)
