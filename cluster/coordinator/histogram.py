"""How often a value fell between which bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts per bucket, for one writer on one event loop: no locks, since tokens pass here.

    A bucket holds the values up to and including its bound, as Prometheus has it.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; above the last one there is one more bucket."""
        self.bounds = tuple(bounds)
        self.total = 0.0
        """Sum of all values."""
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """The value has occurred so many times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """Values seen."""
        return sum(self._counts)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound, infinity last, and how many values were at most as large."""
        return list(zip((*self.bounds, float("inf")), accumulate(self._counts), strict=True))
