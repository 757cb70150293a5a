"""Which steps computed for a request, and how long each took: kept for those that ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.coordinator.journal import Entry, Journal
from cluster.core.ids import Slot
from cluster.core.plan import Step, StepResult
from cluster.core.request import StepTiming
from cluster.scheduler.flight import Flight

Carried = tuple[Slot, Entry, int]
"""A slot that a step computes on, whose it is, and how many tokens that has had before."""


def carried(flight: Flight | None, journal: Journal) -> list[Carried]:
    """Those of a step's requests that are not over and want their steps recorded. To be asked
    before the step's result is applied."""
    found: list[Carried] = []
    for slot, sequence in flight.owners.items() if flight is not None else ():
        entry = journal.get(sequence.request.id)
        if entry is not None and entry.steps is not None and sequence.finish is None:
            found.append((slot, entry, len(sequence.tokens)))
    return found


def record(requests: Iterable[Carried], step: Step, results: Sequence[StepResult]) -> None:
    """Note with each of them what the step was; `results` are the ranks', applied by now."""
    for slot, entry, before in requests:
        assert entry.steps is not None  # `carried` chose those
        by_chunk = zip(*(result.chunk_seconds for result in results), strict=False)
        for chunk, seconds in zip(step.chunks, by_chunk, strict=False):
            if chunk.slot == slot:
                entry.steps.append(StepTiming("prefill", seconds, len(chunk.tokens)))
        if slot in step.decode:
            times = tuple(result.decode_seconds for result in results)
            got = len(entry.sequence.tokens) - before
            entry.steps.append(StepTiming("decode", times, got))
