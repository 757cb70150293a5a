"""What the coordinator notes of requests that are traced; decides nothing, and waits for nothing.

As long as none is, every call returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cluster.coordinator.journal import Entry
from cluster.core.clock import Clock
from cluster.core.ids import Entry as ShelfEntry
from cluster.core.ids import RequestId
from cluster.core.plan import Step, StepResult
from cluster.core.rank_clock import RankClock
from cluster.core.shelf import ShelfNews, ShelfOrder, Verb
from cluster.core.timeline import RankTimes, StepRecord, Timeline, Track
from cluster.scheduler.flight import Flight


@dataclass(slots=True)
class _Traced:
    """A live request that is traced."""

    entry: Entry
    timeline: Timeline
    waiting: float | None
    """Since when it has had no slot; None while it has one."""
    why: str = "queued"
    """Why it waits."""


class Tracer:
    """Notes steps and waits with each request that has a timeline."""

    def __init__(self, hosts: Callable[[], tuple[str, ...]]) -> None:
        """`hosts` gives the names of the machines of the epoch that runs, by rank."""
        self._hosts = hosts
        self._live: dict[RequestId, _Traced] = {}
        self._clocks: list[RankClock] = []
        self._staging: dict[ShelfEntry, list[float]] = {}
        """When each file was ordered to be read, and when it had been: until it is restored."""

    def entered(self, entry: Entry, timeline: Timeline) -> None:
        """A request was taken."""
        self._live[entry.request.id] = _Traced(entry, timeline, entry.sequence.submitted)

    def begin(self) -> None:
        """Another epoch begins: its ranks are other processes."""
        self._clocks = []
        self._staging.clear()

    def planned(self, step: Step | None, orders: Iterable[ShelfOrder], now: float) -> Step | None:
        """The step as it is to be sent: timed if anyone wants to know."""
        if not self._live:
            return step
        for order in orders:
            if order.verb is Verb.STAGE:
                self._staging[order.entry] = [now]
            else:
                self._staging.pop(order.entry, None)
        for traced in self._live.values():
            self._look(traced, now)
        if step is None:
            return None
        for restore in step.restore:
            times = self._staging.pop(restore.entry, [])
            for traced in self._live.values():
                if traced.entry.sequence.slot == restore.slot and len(times) == 2:
                    traced.timeline.span(Track.QUEUE, "read from disk", *times)
        return replace(step, timed=True)

    def heard(self, news: ShelfNews, now: float) -> None:
        """All ranks have told of a file."""
        if news.verb is Verb.STAGE and len(times := self._staging.get(news.entry, [])) == 1:
            times.append(now)

    @contextmanager
    def applying(
        self, flight: Flight | None, results: Sequence[StepResult], clock: Clock
    ) -> Iterator[None]:
        """A step's results are applied within the block. Noted with those who were live before,
        since its tokens may end a request."""
        if not self._live or flight is None:
            yield
            return
        watching, applied = self._watching(), clock.now()
        before = {slot: len(owner.tokens) for slot, owner in flight.owners.items()}
        yield
        counts = {
            flight.owners[slot].request.id: len(flight.owners[slot].tokens) - before[slot]
            for slot in flight.step.decode
        }
        ranks = self._ranks(flight.sent, results)
        record = _record(flight, counts, applied, clock.now(), ranks, self._hosts())
        self._note(watching, record)

    def interrupted(self, lost: Flight | None, now: float) -> None:
        """The epoch is over, and with it the oldest step in flight is lost."""
        if lost is not None:
            record = _record(lost, {}, now, now, (), self._hosts())
            self._note(self._watching(), replace(record, lost=True))
        for traced in self._live.values():
            if traced.waiting is None:
                traced.waiting, traced.why = now, "recovery"

    def closed(self, entry: Entry, now: float) -> None:
        """A request is over for its client."""
        traced = self._live.pop(entry.request.id, None)
        if traced is None:
            return
        timeline, answer = traced.timeline, entry.request.id
        if traced.waiting is not None:
            timeline.span(Track.QUEUE, traced.why, traced.waiting, now, answer=answer)
        begun, first = entry.sequence.begun, entry.first
        if begun is not None:
            usage = entry.usage
            timeline.span(
                Track.PHASE, "prefill", begun, now if first is None else first,
                answer=answer, prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
            )  # fmt: skip
        if first is not None:
            timeline.span(Track.PHASE, "decode", first, now, answer=answer, tokens=entry.delivered)

    def _watching(self) -> list[Timeline]:
        """Answers of one request share a timeline."""
        return list({id(each.timeline): each.timeline for each in self._live.values()}.values())

    @staticmethod
    def _note(timelines: Iterable[Timeline], record: StepRecord) -> None:
        for timeline in timelines:
            timeline.steps.add(record)

    def _look(self, traced: _Traced, now: float) -> None:
        """Note that it got a slot, or lost it."""
        sequence = traced.entry.sequence
        if traced.waiting is None:
            if sequence.slot is None:
                traced.waiting, traced.why = now, "made way for others"
        elif sequence.slot is not None:
            traced.timeline.span(
                Track.QUEUE, traced.why, traced.waiting, now,
                answer=traced.entry.request.id, slot=sequence.slot,
                cached_tokens=sequence.cached,
            )  # fmt: skip
            traced.waiting = None

    def _ranks(self, sent: float, results: Sequence[StepResult]) -> tuple[RankTimes, ...]:
        """Each rank's times; nothing unless all have told them."""
        told: list[RankTimes] = []
        while len(self._clocks) < len(results):
            self._clocks.append(RankClock())
        for clock, result in zip(self._clocks, results, strict=False):
            times = result.times
            if times is None:
                return ()
            offset = clock.observe(sent, times.received, times.answered, times.arrived)
            told.append(RankTimes(times, offset))
        return tuple(told)


def _record(
    flight: Flight,
    counts: dict[RequestId, int],
    applied: float,
    done: float,
    ranks: tuple[RankTimes, ...],
    hosts: tuple[str, ...],
) -> StepRecord:
    step, owners = flight.step, flight.owners
    rows = [owners[slot].request.id for slot in step.decode]
    return StepRecord(
        epoch=step.epoch,
        seq=step.seq,
        planned=flight.sent,
        applied=applied,
        done=done,
        rows={request: counts.get(request, 0) for request in rows},
        chunks=tuple(
            (owners[chunk.slot].request.id, chunk.start, len(chunk.tokens)) for chunk in step.chunks
        ),
        ranks=ranks,
        hosts=hosts,
    )
