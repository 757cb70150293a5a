"""A timeline as spans: what each process did for the request, and what its time went to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.core.ids import RequestId
from cluster.core.timeline import Detail, RankTimes, StepRecord, Timeline, Track

SERVER = "coordinator"
REQUEST = "request"
STEPS = "steps"
CHUNKS = "chunks"
DECODE = "decode"
NETWORK = "network"
WAIT = "wait"
APPLY = "apply"


class Kind(StrEnum):
    """What time can go to. Where several things go on at once, the first of these counts."""

    COMPUTE = "computing it"
    QUEUE = "queue"
    PREPARE = "preparing"
    OTHERS = "computing for others"
    LOST = "a step lost with its epoch"
    WAIT = "waiting on a rank"
    NETWORK = "network"
    APPLY = "handing out tokens"
    PARSER = "parser"
    SSE = "SSE"
    WHOLE = ""
    """It is the sum of other spans, and explains nothing by itself."""


_KINDS = {
    Track.HTTP: Kind.PREPARE,
    Track.QUEUE: Kind.QUEUE,
    Track.PHASE: Kind.WHOLE,
    Track.PARSER: Kind.PARSER,
    Track.SSE: Kind.SSE,
}


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took a time."""

    process: str
    """SERVER, or "rank 0" with the machine's name."""
    track: str
    name: str
    start: float
    """Seconds after the request came, as is the next."""
    end: float
    kind: Kind
    details: Mapping[str, Detail] = field(default_factory=dict)
    parent: int | None = 0
    """Place in the list of the span that it is a part of; None for the first, the request."""


def spans(timeline: Timeline) -> list[Span]:
    """The request first, then all that is known of it; one that still runs ends now."""
    start = timeline.started
    end = (timeline.now if timeline.ended is None else timeline.ended) - start
    own = frozenset(timeline.requests)
    told = [Span(SERVER, REQUEST, REQUEST, 0.0, end, Kind.WHOLE, dict(timeline.details), None)]
    told += [
        Span(
            SERVER, event.track.value, event.name, event.start - start, event.end - start,
            _KINDS[event.track], event.details,
        )
        for event in timeline.events
    ]  # fmt: skip
    several = len({record.epoch for record in timeline.steps}) > 1
    for record in timeline.steps:
        parent = len(told)
        step = _step(record, own, start, parent, several=several)
        # What others had under way when the request came is told from then on.
        told += [replace(s, start=max(s.start, 0.0)) for s in step if s.end > 0.0]
    return told


def _step(
    record: StepRecord, own: frozenset[RequestId], zero: float, parent: int, *, several: bool
) -> Iterator[Span]:
    """A step as the coordinator saw it, and then what each rank did of it."""
    name = f"step {record.seq}"
    details: dict[str, Detail] = {
        "epoch": record.epoch,
        "rows": len(record.rows),
        "chunks": len(record.chunks),
        "tokens": sum(count for request, count in record.rows.items() if request in own),
    }
    kind = Kind.LOST if record.lost else Kind.WHOLE
    planned, done = record.planned - zero, record.done - zero
    yield Span(
        SERVER, STEPS, f"{name}, lost" if record.lost else name, planned, done, kind, details
    )
    arrived = max((rank.times.arrived - zero for rank in record.ranks), default=done)
    if not record.lost:
        yield Span(SERVER, APPLY, f"apply {name}", arrived, done, Kind.APPLY, {}, parent)
    for number, rank in enumerate(record.ranks):
        host = record.hosts[number] if number < len(record.hosts) else ""
        process = " ".join(
            filter(
                None,
                (f"rank {number}", host, f"(epoch {record.epoch})" if several else ""),
            )
        )
        yield from _rank(record, rank, own, zero, process, parent)


def _rank(
    record: StepRecord,
    rank: RankTimes,
    own: frozenset[RequestId],
    zero: float,
    process: str,
    parent: int,
) -> Iterator[Span]:
    times, name = rank.times, f"step {record.seq}"
    sent, arrived = record.planned - zero, times.arrived - zero

    def here(then: float) -> float:
        """A time of the rank's clock on ours. It can't be before the step was sent, nor after its
        result came; where the offset says so, it is off by less than its error."""
        return min(max(then - rank.offset.ahead - zero, sent), arrived)

    def span(track: str, name: str, start: float, end: float, kind: Kind, **more: Detail) -> Span:
        return Span(process, track, name, start, end, kind, more, parent)

    parts = [*([times.decode] if times.decode is not None else []), *times.chunks]
    received, answered = here(times.received), here(times.answered)
    clock: dict[str, Detail] = {
        "clock_ahead_us": round(rank.offset.ahead * 1e6),
        "clock_error_us": round(rank.offset.error * 1e6),
    }
    yield span(NETWORK, f"{name} to the rank", sent, received, Kind.NETWORK, **clock)
    yield span(NETWORK, f"{name} from the rank", answered, arrived, Kind.NETWORK)
    if not parts:
        return
    begun, done = here(parts[0][0]), here(parts[-1][1])
    yield span(WAIT, f"{name} waits", received, begun, Kind.WAIT)
    yield span(STEPS, name, begun, done, Kind.OTHERS)
    tokens = sum(count for request, count in record.rows.items() if request in own)
    if times.decode is not None and own & record.rows.keys():
        start, end = map(here, times.decode)
        rows = len(record.rows)
        yield span(DECODE, "decode", start, end, Kind.COMPUTE, tokens=tokens, rows=rows)
    for (request, first, length), (start, end) in zip(record.chunks, times.chunks, strict=False):
        if request in own:
            yield span(
                CHUNKS, f"chunk {first}-{first + length}", here(start), here(end), Kind.COMPUTE,
                tokens=length,
            )  # fmt: skip


def breakdown(told: Sequence[Span]) -> dict[str, float]:
    """Seconds of the request's time by what they went to, largest first; "unexplained" is when
    nothing was going on that anyone has noted. They add up to the request's whole time."""
    whole = told[0]
    order = [kind for kind in Kind if kind is not Kind.WHOLE]
    edges: list[tuple[float, int, int]] = []
    for span in told:
        start, end = max(span.start, 0.0), min(span.end, whole.end)
        if span.kind is not Kind.WHOLE and end > start:
            place = order.index(span.kind)
            edges += ((start, place, 1), (end, place, -1))
    edges.sort()
    took = dict.fromkeys([*(kind.value for kind in order), "unexplained"], 0.0)
    under_way, before = [0] * len(order), 0.0
    for time, place, change in [*edges, (whole.end, 0, 0)]:
        first = next((order[i].value for i, many in enumerate(under_way) if many), "unexplained")
        took[first] += time - before
        under_way[place] += change
        before = time
    return dict(sorted(took.items(), key=lambda item: -item[1]))


def lanes(told: Iterable[Span]) -> dict[tuple[str, str], list[list[Span]]]:
    """The spans of each track of each process, in as few lanes as it takes for none to overlap;
    each lane in the order of time."""
    placed: dict[tuple[str, str], list[list[Span]]] = {}
    for span in sorted(told, key=lambda span: (span.start, span.end)):
        of_track = placed.setdefault((span.process, span.track), [])
        free = next((lane for lane in of_track if lane[-1].end <= span.start), None)
        if free is None:
            of_track.append([span])
        else:
            free.append(span)
    return placed
