"""Which rank holds the others up: by how fast each reads its own weights. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median, median_low

from cluster.core.plan import StepResult

LATEST = 5
"""Measurements of each rank whose median counts: one may have been disturbed."""
SLOW = 1.25
"""A rank is slow that takes more than so many times as long as the fastest."""
FAR_BEHIND = 1.5
"""A rank is worth a warning that takes more than so many times as long as the median rank."""


class Straggler:
    """What the ranks of one epoch have measured."""

    def __init__(self) -> None:
        self._measured: dict[int, deque[float]] = {}
        self._told = False

    def note(self, results: Sequence[StepResult]) -> tuple[int, float] | None:
        """The ranks' results of one step. Once in the epoch, a rank and how many times as long as
        the median rank it takes, when that is worth a warning."""
        found = False
        for rank, result in enumerate(results):
            if result.read_bytes_per_second:
                measured = self._measured.setdefault(rank, deque(maxlen=LATEST))
                measured.append(result.read_bytes_per_second)
                found = True
        behind = self._far_behind() if found and not self._told else None
        self._told = self._told or behind is not None
        return behind

    @property
    def read_bytes_per_second(self) -> Mapping[int, float]:
        """Of each rank that has measured."""
        return {rank: median(measured) for rank, measured in sorted(self._measured.items())}

    @property
    def slow(self) -> frozenset[int]:
        """Ranks that are slow beside the fastest."""
        speeds = self.read_bytes_per_second
        fastest = max(speeds.values(), default=0.0)
        return frozenset(rank for rank, speed in speeds.items() if speed * SLOW < fastest)

    def _far_behind(self) -> tuple[int, float] | None:
        """The slowest rank, once all have measured `LATEST` times: so most of these say so. Of two
        ranks, the faster one is the median."""
        if any(len(measured) < LATEST for measured in self._measured.values()):
            return None
        seconds = {rank: 1 / speed for rank, speed in self.read_bytes_per_second.items()}
        slowest = max(seconds, key=seconds.__getitem__)
        factor = seconds[slowest] / median_low(seconds.values())
        return (slowest, factor) if factor > FAR_BEHIND else None
