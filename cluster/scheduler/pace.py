"""How long work will take, learned from how long it took."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import mul

from cluster.core.config import LARGEST_CHUNK

FIRST_CHUNK = 64
"""Tokens of the first chunk ever, when nothing has been measured."""
GROWTH = 4
"""A chunk is at most this many times the largest one measured so far."""
GRAIN = 16
"""Chunks above this are multiples of it, so that few distinct shapes occur."""
PROBE_EVERY = 8
"""Every 8th chunk is a probe of half the size. Were all chunks alike, nothing could tell the
part of their time that each has whatever its size. A few that differ much tell it better than
many that differ little, and cost less."""
DOUBT = (1e-10, 1e-8, 3e-4, 3e-4)
"""Ridge on each coefficient (a, b, d, c), as a share of its column: what the measurements leave
open is put down to the tokens first, then to attention, to the chunk itself last. If that is
wrong, the next chunk is too small, which shows it."""
ALIKE = 1e-9
"""Rounding: a gradient this far below zero counts as zero."""


class PrefillPace:
    """Predicts the time of a prefill chunk of n tokens after s positions of context.

    Model: t = d + c s + a n + b n (s + n / 2), no coefficient below zero. Each chunk reads the
    weights (d) and the cache so far (c s) once, whatever its size: its fixed part. Its own work
    is a dense part per token and attention over what precedes it. Without the fixed part, a
    chunk that is slow for reading a long cache would look as if its tokens were slow, the next
    would be smaller, as slow, and so on down to single tokens.

    Non-negative least squares of the relative error over the latest chunks. Relative, because
    a chunk of 50 ms tells as much as one of 1 s, and because a chunk that took far too long for
    some other reason then has next to no weight.
    """

    def __init__(self, window: int = 32) -> None:
        self._seen: deque[tuple[float, float, float, float, float]] = deque(maxlen=window)
        """Of each chunk n, n (s + n / 2), 1, s and t, all times its weight."""
        self._sizes: deque[int] = deque(maxlen=window)
        self._count = 0
        self._largest = 0
        self._a = self._b = self._c = self._d = 0.0
        self._used: tuple[int, ...] = ()
        """Which coefficients the last fit had above zero."""

    def observe(self, start: int, tokens: int, seconds: float) -> None:
        """A chunk of `tokens` at position `start` took `seconds`."""
        if tokens <= 0 or seconds <= 0:
            return
        # One that seems to have taken no time must not outweigh all others.
        weight = 1 / max(seconds, self.seconds(start, tokens) / 8)
        attended = tokens * (start + tokens / 2)
        self._seen.append(
            (tokens * weight, attended * weight, weight, start * weight, seconds * weight)
        )
        self._sizes.append(tokens)
        self._count += 1
        self._largest = max(self._largest, tokens)
        self._fit()

    def fixed(self, start: int) -> float:
        """Predicted part of the time of any chunk at `start` that its size does not change."""
        return self._d + self._c * start

    def seconds(self, start: int, tokens: int) -> float:
        """Predicted time; 0 when nothing has been measured yet."""
        own = self._a * tokens + self._b * tokens * (start + tokens / 2)
        return self.fixed(start) + own

    def tokens_within(self, start: int, budget: float) -> int:
        """How many tokens (at least 1) to take in a chunk that may take `budget` seconds.

        The most that are predicted to take at most that long. But where less than half of that
        would be the chunk's own work, as many as make it half, while the whole stays within
        twice the budget; and where the fixed part leaves no room for that either, as many as
        take half of the fixed part: such a chunk is late at any size, and smaller ones would
        only make more of them.
        """
        if not self._seen:
            return FIRST_CHUNK
        if budget <= 0:
            return 1
        fixed = self.fixed(start)
        own = max(budget - fixed, min(fixed, 2 * budget - fixed), fixed / 2)
        most = min(LARGEST_CHUNK, max(FIRST_CHUNK, GROWTH * self._largest))
        tokens = int(min(self._tokens_worth(start, own), most))
        if tokens <= 1:
            return 2 if self._only_single_tokens else 1
        if self._count % PROBE_EVERY == 0:
            tokens //= 2
        if tokens < GRAIN:
            return tokens
        late = fixed + own > 2 * budget  # then no bound is kept by rounding down
        return min(LARGEST_CHUNK, (tokens + GRAIN * late) // GRAIN * GRAIN)

    @property
    def _only_single_tokens(self) -> bool:
        """Nothing left in the window tells whether it is the tokens that are slow, or every
        chunk: without an answer, chunks could stay at one token for ever."""
        return len(self._sizes) == self._sizes.maxlen and max(self._sizes) == 1

    def _tokens_worth(self, start: int, own: float) -> float:
        """Solves b/2 n^2 + (a + b s) n = own for n."""
        linear = self._a + self._b * start
        divisor = linear + (linear * linear + 2 * self._b * own) ** 0.5  # stable for a tiny b
        return 2 * own / divisor if divisor > 0 else float(LARGEST_CHUNK)

    def _fit(self) -> None:
        series = list(zip(*self._seen, strict=True))
        products = [[sum(map(mul, x, y)) for y in series] for x in series[:4]]
        # Columns are scaled to length 1; one of zeros (all chunks at position 0) is left out.
        lengths = [products[i][i] ** 0.5 for i in range(4)]
        matrix = [[0.0] * 4 for _ in range(4)]
        right = [0.0] * 4
        columns = [i for i in range(4) if lengths[i] > 0]
        for i in columns:
            right[i] = products[i][4] / lengths[i]
            for j in columns:
                matrix[i][j] = products[i][j] / (lengths[i] * lengths[j])
            matrix[i][i] = 1.0 + DOUBT[i]
        solution, self._used = _least_squares(matrix, right, columns, self._used)
        self._a, self._b, self._d, self._c = (
            x / length if length > 0 else 0.0 for x, length in zip(solution, lengths, strict=True)
        )


def _least_squares(
    matrix: list[list[float]], right: list[float], columns: Sequence[int], guess: tuple[int, ...]
) -> tuple[list[float], tuple[int, ...]]:
    """The x >= 0 that comes closest to matrix x = right, and where it is not zero.

    With so few columns it is simplest to try which of them are used: the right ones (there is
    one such choice, for the matrix is positive definite) give no x below zero, and to use
    another would not come closer (the conditions of Karush, Kuhn and Tucker). Mostly it is the
    `guess`, the ones used the last time.
    """
    subsets = [s for k in range(len(columns), 0, -1) for s in combinations(columns, k)]
    best, best_gain = [0.0] * len(right), 0.0
    best_used: tuple[int, ...] = ()
    for used in (tuple(i for i in guess if i in columns), *subsets):
        x = _solve(matrix, right, used)
        if min(x) < 0:
            continue
        if all(
            sum(matrix[j][i] * x[i] for i in used) >= right[j] - ALIKE
            for j in columns
            if j not in used
        ):
            return x, used
        gain = sum(x[i] * right[i] for i in used)
        if gain > best_gain:  # only where rounding leaves no subset that meets all conditions
            best, best_used, best_gain = x, used, gain
    return best, best_used


def _solve(matrix: list[list[float]], right: list[float], used: Sequence[int]) -> list[float]:
    """Gauss elimination (a positive definite matrix needs no pivoting) over the rows and
    columns `used`; zero elsewhere."""
    rows = [[*(matrix[i][j] for j in used), right[i]] for i in used]
    size = len(rows)
    for k, pivot in enumerate(rows):
        for row in rows[k + 1 :]:
            factor = row[k] / pivot[k]
            for j in range(k, size + 1):
                row[j] -= factor * pivot[j]
    x = [0.0] * len(right)
    for k in range(size - 1, -1, -1):
        known = sum(rows[k][j] * x[used[j]] for j in range(k + 1, size))
        x[used[k]] = (rows[k][size] - known) / rows[k][k]
    return x


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one set of ranks is. It may be handed on to the next epoch of as many ranks."""

    prefill: PrefillPace = field(default_factory=PrefillPace)
    decode: DecodePace = field(default_factory=DecodePace)


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
