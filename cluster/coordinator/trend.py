"""The last hour, sample by sample: what `GET /history` answers. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.coordinator.tally import Tally
from cluster.core.view import Sample

EVERY = 5.0
"""Seconds from one sample to the next."""
KEPT = 720
"""Samples: one hour."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is known at one moment and counted nowhere."""

    epoch: int
    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    queued: int
    running: int


class Trend:
    """A ring of samples. Holds at most KEPT."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._taken = 0.0
        self._number = 0
        self._before = _Counts()

    def due(self, now: float) -> bool:
        """Whether it is time for the next sample."""
        return now - self._taken >= EVERY

    def take(self, now: float, load: Load, tally: Tally) -> None:
        """Add a sample of the time since the last one."""
        counts, before = _Counts.of(tally), self._before
        prompt = counts.prompt_tokens - before.prompt_tokens
        cached = counts.cached_tokens - before.cached_tokens
        self._number += 1
        self.samples.append(
            Sample(
                number=self._number,
                at=now,
                epoch=load.epoch,
                decode_tokens_per_second=load.decode_tokens_per_second,
                prefill_tokens_per_second=load.prefill_tokens_per_second,
                queued=load.queued,
                running=load.running,
                first_token_seconds=_spread(counts.first_token, before.first_token),
                inter_token_seconds=_spread(counts.inter_token, before.inter_token),
                cached_share=cached / prompt if prompt else None,
                step_seconds=_means(counts.steps, before.steps),
                read_bytes_per_second=tuple(
                    1 / seconds if seconds else None
                    for seconds in _means(counts.reads, before.reads)
                ),
            )
        )
        self._before, self._taken = counts, now

    def since(self, number: int) -> list[Sample]:
        """Samples with higher numbers than this, the oldest first."""
        first = self.samples[0].number if self.samples else 0
        skip = max(0, number + 1 - first)
        return list(self.samples)[skip:]


Buckets = Sequence[tuple[float, int]]
"""As Histogram.cumulative."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a tally had counted at one moment."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_token: Buckets = ()
    inter_token: Buckets = ()
    steps: tuple[tuple[int, float], ...] = ()
    """By rank: decode steps, and their seconds together."""
    reads: tuple[tuple[int, float], ...] = ()
    """As Tally.reads."""

    @classmethod
    def of(cls, tally: Tally) -> _Counts:
        return cls(
            tally.prompt_tokens,
            tally.cached_tokens,
            tally.first_token.cumulative,
            tally.inter_token.cumulative,
            tuple(_decode_steps(tally)),
            tuple(
                tally.reads.get(rank, (0, 0.0)) for rank in range(max(tally.reads, default=-1) + 1)
            ),
        )


def _decode_steps(tally: Tally) -> list[tuple[int, float]]:
    ranks = sorted(rank for rank, kind in tally.steps if kind == "decode")
    found = [tally.steps[rank, "decode"] for rank in ranks]
    return [(histogram.count, histogram.total) for histogram in found]


def _means(
    after: Sequence[tuple[int, float]], before: Sequence[tuple[int, float]]
) -> tuple[float | None, ...]:
    """Mean seconds by rank, of what was counted in between."""
    known = [*before, *[(0, 0.0)] * (len(after) - len(before))]
    return tuple(
        (seconds - seconds_before) / (count - count_before) if count > count_before else None
        for (count, seconds), (count_before, seconds_before) in zip(after, known, strict=True)
    )


def _spread(after: Buckets, before: Buckets) -> tuple[float, float] | None:
    """Median and 95th percentile of what was counted in between; None for nothing."""
    were = [count for _, count in before] or [0] * len(after)
    between = [(bound, count - was) for (bound, count), was in zip(after, were, strict=True)]
    if not between or between[-1][1] == 0:
        return None
    return quantile(between, 0.5), quantile(between, 0.95)


def quantile(buckets: Buckets, share: float) -> float:
    """The value that `share` (0 to 1) of those counted stay below, even within its bucket, as
    Prometheus's histogram_quantile has it; beyond the last finite bound, that bound."""
    wanted = share * buckets[-1][1]
    low, below = 0.0, 0
    for bound, count in buckets:
        if count >= wanted and count > below:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low
