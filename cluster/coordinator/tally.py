"""What a coordinator counts, over all of its epochs."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.coordinator.histogram import Histogram
from cluster.coordinator.journal import Entry
from cluster.core.errors import (
    DigestMismatch,
    EngineCrashed,
    EpochEnded,
    InvalidRequest,
    NodeLost,
    NotReady,
    PromptTooLong,
    QueueFull,
    Regrouped,
    ShuttingDown,
    StepOverdue,
    StepRefused,
)
from cluster.core.plan import StepResult
from cluster.core.request import Finish

WAIT_BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0,
    600.0,
)  # fmt: skip
"""Seconds that a client waits: from a cached prompt's to the longest time in the queue."""
TOKEN_BOUNDS = (
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Seconds from one token to the next."""
STEP_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.15, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0,
    15.0, 60.0,
)  # fmt: skip
"""Seconds of one part of a step; the plan means 0.04 of decode and 0.25 of prefill."""
RECOVERY_BOUNDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds without engines: from a small model's start to a large one's."""


class Tally:
    """Counts only grow. All labels are from small sets: phases, ranks, classes of errors."""

    def __init__(self) -> None:
        self.finished = dict.fromkeys(Finish, 0)
        """Requests that are over, by how they ended."""
        self.refusals = _by_class(PromptTooLong, InvalidRequest, QueueFull, NotReady, ShuttingDown)
        """Requests that were not taken, by class of error."""
        self.epochs_ended = _by_class(
            EpochEnded, EngineCrashed, NodeLost, StepOverdue, Regrouped, StepRefused, DigestMismatch
        )
        """Epochs that did not last until the server stopped, by class of error."""
        self.replayed = 0
        """Requests that went on in another epoch than they had begun in."""
        self.recovery = Histogram(RECOVERY_BOUNDS)
        """From the end of an epoch to the beginning of the next."""
        self.prompt_tokens = 0
        """Of requests that got their first token."""
        self.cached_tokens = 0
        """Those of them that a cached prefix held."""
        self.generated_tokens = 0
        """Delivered, end ids included, as clients' usage has it."""
        self.queue = Histogram(WAIT_BOUNDS)
        """Until a slot was given: one value for each request with a first token, or an end."""
        self.first_token = Histogram(WAIT_BOUNDS)
        """From submission: one value for each request that got a token."""
        self.inter_token = Histogram(TOKEN_BOUNDS)
        """One value for each token but a request's first; those that came at once share evenly
        the time since the one before."""
        self.steps: dict[tuple[int, str], Histogram] = {}
        """By rank and kind: what the chunks or the iterations of one step took together."""
        self.reads: dict[int, tuple[int, float]] = {}
        """By rank: how often it has read its own weights, and the seconds per byte together."""

    @property
    def empty(self) -> bool:
        """Nothing was asked of it yet, and nothing computed."""
        counted = (self.finished, self.refusals, self.epochs_ended)
        return not self.steps and not any(any(each.values()) for each in counted)

    def refused(self, error: Exception) -> None:
        """A request was not taken."""
        _add(self.refusals, error)

    def epoch_ended(self, error: BaseException) -> None:
        """An epoch is over for this reason."""
        _add(self.epochs_ended, error)

    def recovered(self, seconds: float, requests: int) -> None:
        """The next epoch begins so long after the one before, with so many live requests."""
        self.recovery.observe(seconds)
        self.replayed += requests

    def piece(self, entry: Entry, tokens: int, now: float) -> None:
        """So many tokens are delivered to a request at this moment, which is noted with it."""
        if entry.first is None:
            entry.first = now
            timing, usage = entry.timing, entry.usage
            self.queue.observe(timing.queued)
            self.first_token.observe(now - entry.sequence.submitted)
            self.prompt_tokens += usage.prompt_tokens
            self.cached_tokens += usage.cached_tokens
        else:
            self.inter_token.observe((now - entry.last) / tokens, tokens)
        entry.last = now
        self.generated_tokens += tokens

    def ended(self, entry: Entry, finish: Finish) -> None:
        """A request is over."""
        self.finished[finish] += 1
        if entry.first is None:
            self.queue.observe(entry.timing.queued)

    def step(self, results: Sequence[StepResult]) -> None:
        """A step is done; `results` are the ranks'. Only rank 0 tells what was decoded."""
        decoded = bool(results[0].decoded)
        for rank, result in enumerate(results):
            if decoded:
                self._step(rank, "decode", result.decode_seconds)
            if result.chunk_seconds:
                self._step(rank, "prefill", sum(result.chunk_seconds))
            if result.read_bytes_per_second:
                count, seconds = self.reads.get(rank, (0, 0.0))
                self.reads[rank] = count + 1, seconds + 1 / result.read_bytes_per_second

    def _step(self, rank: int, kind: str, seconds: float) -> None:
        histogram = self.steps.get((rank, kind))
        if histogram is None:
            histogram = self.steps[rank, kind] = Histogram(STEP_BOUNDS)
        histogram.observe(seconds)


def _by_class(*errors: type[Exception]) -> dict[str, int]:
    """Counters that are there from the start, since a rate needs a zero to begin with."""
    return {error.__name__: 0 for error in errors}


def _add(counts: dict[str, int], error: BaseException) -> None:
    name = type(error).__name__
    counts[name] = counts.get(name, 0) + 1
