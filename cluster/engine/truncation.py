"""top_k, top_p and min_p: which tokens stay in the draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from cluster.core.sampling import Sampling


class Truncation:
    """The limits of a fixed list of rows. Each acts on what the one before has left."""

    def __init__(self, rows: Sequence[Sampling]) -> None:
        active = [row if not row.greedy else Sampling() for row in rows]
        self._count = len(active)
        # Sorting is what costs: only rows with a limit are sorted, and with top_k only the
        # largest values of those.
        self._by_k = [i for i, row in enumerate(active) if row.top_k > 0]
        self._by_p = [i for i, row in enumerate(active) if row.top_k <= 0 and row.top_p < 1.0]
        self._by_min = any(row.min_p > 0 for row in active)
        self._widest = max((active[i].top_k for i in self._by_k), default=0)
        self._k = mx.array([[active[i].top_k] for i in self._by_k])
        # 2 instead of 1: a rounded sum of probabilities must not end the set early.
        self._k_p = mx.array([[p if (p := active[i].top_p) < 1.0 else 2.0] for i in self._by_k])
        self._p = mx.array([[active[i].top_p] for i in self._by_p])
        self._min = mx.array([[math.log(r.min_p) if r.min_p > 0 else -mx.inf] for r in active])

    def apply(self, scores: mx.array) -> mx.array:
        """`scores`, float32 `[rows, vocab]`, with -inf for the tokens that are out."""
        if not (self._by_k or self._by_p or self._by_min):
            return scores
        least = mx.full((self._count, 1), -mx.inf)
        if self._by_k:
            index = mx.array(self._by_k)
            least[index] = self._top_k(scores[index])
        if self._by_p:
            index = mx.array(self._by_p)
            ordered = -mx.sort(-scores[index], axis=-1)
            least[index] = _nucleus(ordered, self._p)
        if self._by_min:
            least = mx.maximum(least, mx.max(scores, axis=-1, keepdims=True) + self._min)
        return mx.where(scores >= least, scores, -mx.inf)

    def _top_k(self, scores: mx.array) -> mx.array:
        """Smallest score that stays under top_k and then top_p, `[rows, 1]`."""
        widest = min(self._widest, scores.shape[-1])
        largest = -mx.sort(mx.partition(-scores, widest - 1, axis=-1)[:, :widest], axis=-1)
        kept = mx.where(mx.arange(widest)[None] < self._k, largest, -mx.inf)
        return _nucleus(kept, self._k_p)


def _nucleus(ordered: mx.array, p: mx.array) -> mx.array:
    """Smallest score of the smallest set whose probability reaches `p`, `[rows, 1]`.

    `ordered` scores are `[rows, n]`, largest first; the first always stays (Holtzman et al.
    2019, arXiv:1904.09751).
    """
    probability = mx.softmax(ordered, axis=-1)
    before = mx.cumsum(probability, axis=-1) - probability
    stays = (before < p) & (ordered > -mx.inf)
    return mx.min(mx.where(stays, ordered, mx.inf), axis=-1, keepdims=True)
