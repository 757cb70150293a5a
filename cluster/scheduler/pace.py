"""How long work will take, learned from how long it took."""

from __future__ import annotations

from collections import deque

FIRST_CHUNK = 64
"""Tokens of the first chunk ever, when nothing has been measured."""
LARGEST_CHUNK = 2048
"""Bounds the activations of one chunk (attention scores grow with chunk times context)."""
GROWTH = 4
"""A chunk is at most this many times the largest one measured so far."""
GRAIN = 16
"""Chunks above this are multiples of it, so that few distinct shapes occur."""


class PrefillPace:
    """Predicts the time of a prefill chunk of n tokens after s positions of context.

    Model: t = a n + b n (s + n / 2): a dense part per token and attention over what precedes
    it. Least squares over the latest chunks, in which long chunks weigh more; a and b are kept
    from going negative.
    """

    def __init__(self, window: int = 32) -> None:
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=window)
        self._a = 0.0
        self._b = 0.0
        self._largest = 0

    def observe(self, start: int, tokens: int, seconds: float) -> None:
        """A chunk of `tokens` at position `start` took `seconds`."""
        if tokens <= 0 or seconds <= 0:
            return
        self._seen.append((tokens, tokens * (start + tokens / 2), seconds))
        self._largest = max(self._largest, tokens)
        self._fit()

    def seconds(self, start: int, tokens: int) -> float:
        """Predicted time; 0 when nothing has been measured yet."""
        return self._a * tokens + self._b * tokens * (start + tokens / 2)

    def tokens_within(self, start: int, budget: float) -> int:
        """The most tokens (at least 1) that are predicted to take at most `budget` seconds."""
        if not self._seen:
            return FIRST_CHUNK
        if budget <= 0:  # a chunk of a single token can have taken more than there was
            return 1
        most = min(LARGEST_CHUNK, max(FIRST_CHUNK, GROWTH * self._largest))
        # Solve b/2 n^2 + (a + b s) n = budget for n.
        linear = self._a + self._b * start
        half = self._b / 2
        if half > 0:
            root = (linear * linear + 4 * half * budget) ** 0.5
            fit = 2 * budget / (linear + root)  # stable where half is tiny
        else:
            fit = budget / linear if linear > 0 else most
        tokens = int(min(fit, most))
        return max(1, tokens if tokens < GRAIN else tokens // GRAIN * GRAIN)

    def _fit(self) -> None:
        xx = sum(x * x for x, _, _ in self._seen)
        xz = sum(x * z for x, z, _ in self._seen)
        zz = sum(z * z for _, z, _ in self._seen)
        xt = sum(x * t for x, _, t in self._seen)
        zt = sum(z * t for _, z, t in self._seen)
        determinant = xx * zz - xz * xz
        if determinant > 1e-9 * xx * zz:
            self._a = (xt * zz - zt * xz) / determinant
            self._b = (zt * xx - xt * xz) / determinant
        else:  # all chunks alike: the data can't tell a from b
            self._a, self._b = xt / xx, 0.0
        if self._b < 0:
            self._a, self._b = xt / xx, 0.0
        elif self._a < 0:
            self._a, self._b = 0.0, zt / zz


class DecodePace:
    """Predicts the time of one decode iteration by the number of rows in the batch."""

    def __init__(self, weight: float = 0.3) -> None:
        self._weight = weight
        self._by_rows: dict[int, float] = {}

    def observe(self, rows: int, iterations: int, seconds: float) -> None:
        """`iterations` over `rows` rows took `seconds` together."""
        if rows <= 0 or iterations <= 0 or seconds <= 0:
            return
        each = seconds / iterations
        before = self._by_rows.get(rows, each)
        self._by_rows[rows] = before + self._weight * (each - before)

    def seconds(self, rows: int) -> float:
        """Predicted time of one iteration; 0 when nothing has been measured yet.

        An unmeasured number of rows is taken from the nearest one that was, in proportion
        when more rows are asked for (an upper bound: a batch shares the weights).
        """
        if not self._by_rows or rows <= 0:
            return 0.0
        nearest = min(self._by_rows, key=lambda known: abs(known - rows))
        return self._by_rows[nearest] * max(1.0, rows / nearest)

    def iterations_within(self, rows: int, budget: float) -> int:
        """The most iterations predicted to take at most `budget` seconds, but at least 1."""
        each = self.seconds(rows)
        return max(1, int(budget / each)) if each > 0 else 1


class PrefillShare:
    """Keeps prefill at a set share of the time while other sequences decode.

    Prefill runs up a debt of decode time; a new chunk is due when the debt is paid.
    """

    def __init__(self, share: float) -> None:
        self._ratio = (1 - share) / share
        self._debt = 0.0

    @property
    def due(self) -> bool:
        """True when prefill may have its turn."""
        return self._debt <= 0

    def prefilled(self, seconds: float) -> None:
        """A chunk predicted to take `seconds` was planned beside decoding sequences."""
        self._debt += seconds * self._ratio

    def decoded(self, seconds: float) -> None:
        """Decode iterations predicted to take `seconds` together were planned."""
        self._debt = max(0.0, self._debt - seconds)

    def reset(self) -> None:
        """Nobody decodes: nothing is owed."""
        self._debt = 0.0
