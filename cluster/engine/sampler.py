"""Rank 0 chooses the next token of each row.

The random numbers of a row depend on its seed and the position sampled, and on nothing else:
a seed gives the same text in any batch. A sample is the argmax of logits plus Gumbel noise
(Maddison et al. 2014, arXiv:1411.0030), one draw per token id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.core.sampling import Sampling
from cluster.engine.truncation import Truncation

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Row:
    """Sampling state of one slot; the arrays are float32 `[vocab]`, None when not needed."""

    sampling: Sampling
    prompt: mx.array | None
    """1 for the ids of the prompt that the repetition penalty looks at."""
    counts: mx.array | None
    """How often each id is in the answer so far."""
    bias: mx.array | None


class Sampler:
    """Sampling parameters and penalty counts of all slots. Used on rank 0's engine thread."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._rows: dict[Slot, _Row] = {}
        self._batch: _Batch | None = None

    def admit(
        self, slot: Slot, sampling: Sampling, history: tuple[int, ...], generated: tuple[int, ...]
    ) -> None:
        """A sequence begins in `slot`; `history` and `generated` as in `plan.Admit`."""
        penalized = sampling.penalized
        self._rows[slot] = _Row(
            sampling,
            prompt=mx.minimum(self._histogram(history), 1.0) if penalized else None,
            counts=self._histogram(generated) if penalized else None,
            bias=self._bias(sampling.logit_bias) if sampling.logit_bias else None,
        )
        self._batch = None

    def drop(self, slot: Slot) -> None:
        """The sequence in `slot` is over; nothing happens when there is none."""
        self._rows.pop(slot, None)
        self._batch = None

    def sample(
        self, slots: tuple[Slot, ...], logits: mx.array, positions: Sequence[int]
    ) -> mx.array:
        """Next token of each slot: int32 `[rows]`, in `[0, vocab)`, whatever the logits hold.

        `logits` are `[rows, vocab]`; `positions` are the places in their sequences of the
        tokens being sampled. Raises StepRefused for a slot that was not admitted.
        """
        if self._batch is None or self._batch.slots != slots:
            self._batch = _Batch(slots, [self._row(slot) for slot in slots])
        batch = self._batch
        if batch.plain:
            return mx.argmax(logits, axis=-1).astype(mx.int32)
        scores = logits.astype(mx.float32)
        scores = mx.where(mx.isnan(scores), -mx.inf, scores)
        scores = self._adjust(batch, scores)
        if batch.random:
            scores = _perturb(batch, scores, positions)
        ids = mx.argmax(scores, axis=-1).astype(mx.int32)
        for i, row in enumerate(batch.rows):
            if row.counts is not None:
                row.counts = row.counts.at[ids[i]].add(1.0)
        return ids

    def states(self, slots: tuple[Slot, ...]) -> list[mx.array]:
        """Penalty counts of `slots`, to be evaluated with the launch that changed them."""
        counts = [self._rows[slot].counts for slot in slots if slot in self._rows]
        return [array for array in counts if array is not None]

    def _row(self, slot: Slot) -> _Row:
        try:
            return self._rows[slot]
        except KeyError:
            raise StepRefused(f"slot {slot} is to be sampled but was not admitted") from None

    def _adjust(self, batch: _Batch, scores: mx.array) -> mx.array:
        """Repetition penalty, presence and frequency penalties, logit bias."""
        zero = mx.zeros((self._vocab,))
        if batch.penalized:
            counts = mx.stack([zero if row.counts is None else row.counts for row in batch.rows])
            prompt = mx.stack([zero if row.prompt is None else row.prompt for row in batch.rows])
            repeated = mx.where(scores > 0, scores / batch.repetition, scores * batch.repetition)
            scores = mx.where(prompt + counts > 0, repeated, scores)
            scores = scores - batch.presence * (counts > 0) - batch.frequency * counts
        if batch.biased:
            scores += mx.stack([zero if row.bias is None else row.bias for row in batch.rows])
        return scores

    def _histogram(self, ids: Iterable[int]) -> mx.array:
        """How often each id occurs, float32 `[vocab]`; ids outside the vocabulary don't count."""
        known = [token for token in ids if 0 <= token < self._vocab]
        counts = mx.zeros((self._vocab,))
        return counts.at[mx.array(known)].add(1.0) if known else counts

    def _bias(self, bias: Mapping[int, float]) -> mx.array:
        known = {token: value for token, value in bias.items() if 0 <= token < self._vocab}
        added = mx.zeros((self._vocab,))
        if known:
            added[mx.array(list(known))] = mx.array(list(known.values()))
        return added


class _Batch:
    """The parameters of a fixed list of rows as columns, float32 `[rows, 1]`."""

    def __init__(self, slots: tuple[Slot, ...], rows: list[_Row]) -> None:
        params = [row.sampling for row in rows]
        self.slots = slots
        self.rows = rows
        self.penalized = any(row.counts is not None for row in rows)
        self.biased = any(row.bias is not None for row in rows)
        self.random = not all(p.greedy for p in params)
        self.plain = not (self.penalized or self.biased or self.random)
        self.repetition = _column(p.repetition_penalty for p in params)
        self.presence = _column(p.presence_penalty for p in params)
        self.frequency = _column(p.frequency_penalty for p in params)
        self.temperature = _column(1.0 if p.greedy else p.temperature for p in params)
        self.greedy = mx.array([[p.greedy] for p in params])
        self.truncation = Truncation(params)


def _perturb(batch: _Batch, scores: mx.array, positions: Sequence[int]) -> mx.array:
    """Temperature, truncation, and Gumbel noise for the rows that are not greedy."""
    scores = batch.truncation.apply(scores / batch.temperature)
    pairs = zip(batch.rows, positions, strict=True)
    keys = mx.array(
        [random_key(row.sampling.seed, position) for row, position in pairs], dtype=mx.uint32
    )
    vocab = scores.shape[-1]
    noise = mx.vmap(lambda key: mx.random.gumbel((vocab,), key=key))(keys)
    return scores + mx.where(batch.greedy, 0.0, noise)


def random_key(seed: int, position: int) -> tuple[int, int]:
    """MLX random key of one sampled position, two 32-bit words.

    splitmix64 (Steele, Lea, Flood 2014) over both, so that neighbouring seeds or positions
    have nothing in common.
    """
    mixed = _splitmix64(_splitmix64(seed & _MASK) ^ (position & _MASK))
    return mixed >> 32, mixed & 0xFFFFFFFF


def _splitmix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _column(values: Iterable[float]) -> mx.array:
    return mx.array([[value if math.isfinite(value) else 0.0] for value in values])
