"""Tokens per second over the last few seconds."""

from __future__ import annotations

from collections import deque

SPAN = 10.0
"""Seconds looked back on."""


class Meter:
    """Counts tokens by kind in whole-second bins, so that it stays small at any speed."""

    def __init__(self) -> None:
        self._bins: deque[tuple[int, int, int]] = deque(maxlen=int(SPAN) + 1)

    def add(self, now: float, *, decoded: int, prefilled: int) -> None:
        """Tokens that a step yielded."""
        second = int(now)
        if self._bins and self._bins[-1][0] == second:
            _, was_decoded, was_prefilled = self._bins.pop()
            decoded, prefilled = decoded + was_decoded, prefilled + was_prefilled
        self._bins.append((second, decoded, prefilled))

    def rates(self, now: float) -> tuple[float, float]:
        """(decoded, prefilled) tokens per second over the last SPAN seconds."""
        recent = [entry for entry in self._bins if entry[0] > now - SPAN]
        if not recent:
            return 0.0, 0.0
        span = max(1.0, min(SPAN, now - recent[0][0]))
        return sum(e[1] for e in recent) / span, sum(e[2] for e in recent) / span
