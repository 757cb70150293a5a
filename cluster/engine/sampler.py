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
from cluster.core.plan import Admit, Likelihood
from cluster.core.sampling import Sampling
from cluster.engine.truncation import Truncation

_MASK = (1 << 64) - 1
_LEAST = -1e38
"""A finite score below all others."""


@dataclass(slots=True)
class _Row:
    """Sampling state of one slot; the arrays are `[vocab]`, None when not needed."""

    sampling: Sampling
    prompt: mx.array | None
    """1 for the ids of the prompt that the repetition penalty looks at."""
    counts: mx.array | None
    """How often each id is in the answer so far."""
    bias: mx.array | None
    goes_on: mx.array | None
    """False for the end ids, which are not sampled before position `end_from`."""
    end_from: int
    logprobs: int | None


class Sampler:
    """Sampling parameters and penalty counts of all slots. Used on rank 0's engine thread."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._rows: dict[Slot, _Row] = {}
        self._batch: _Batch | None = None

    def admit(self, admit: Admit) -> None:
        """A sequence begins in a slot; what was there is forgotten."""
        sampling = admit.sampling
        penalized = sampling.penalized
        # Only a grammar knows where an answer may end that it constrains.
        holds = bool(admit.end_ids) and admit.end_from > 0 and not admit.grammar
        self._rows[admit.slot] = _Row(
            sampling,
            prompt=mx.minimum(self._histogram(admit.history), 1.0) if penalized else None,
            counts=self._histogram(admit.generated) if penalized else None,
            bias=self._bias(sampling.logit_bias) if sampling.logit_bias else None,
            goes_on=self._histogram(admit.end_ids) == 0 if holds else None,
            end_from=admit.end_from if holds else 0,
            logprobs=admit.logprobs,
        )
        self._batch = None

    def drop(self, slot: Slot) -> None:
        """The sequence in `slot` is over; nothing happens when there is none."""
        self._rows.pop(slot, None)
        self._batch = None

    def sample(
        self,
        slots: tuple[Slot, ...],
        logits: mx.array,
        positions: Sequence[int],
        allowed: mx.array | None = None,
    ) -> mx.array:
        """Next token of each row: int32 `[rows]`, in `[0, vocab)`, whatever the logits hold.

        `logits` are `[rows, vocab]`; `positions` are the places in their sequences of the
        tokens being sampled. A slot may have several rows, unless it has penalties: they go by
        what was sampled before. `allowed`, bool `[rows, vocab]`, says which ids may come out;
        one of them does, if there is any. Raises StepRefused for a slot that was not admitted.
        """
        batch = self._columns(slots)
        allowed = self._without_ends(batch, positions, allowed)
        if batch.plain and allowed is None:
            return mx.argmax(logits, axis=-1).astype(mx.int32)
        scores = logits.astype(mx.float32)
        scores = mx.where(mx.isnan(scores), -mx.inf, scores)
        scores = self._adjust(batch, scores)
        if batch.random:
            if allowed is not None:
                # Before the truncation: its limits are for what may be sampled.
                scores = mx.where(allowed, scores, -mx.inf)
            scores = _perturb(batch, scores, positions)
        if allowed is not None:
            # What is allowed wins over what is not, however unlikely it has become.
            scores = mx.where(allowed, mx.maximum(scores, _LEAST), -mx.inf)
        ids = mx.argmax(scores, axis=-1).astype(mx.int32)
        for i, row in enumerate(batch.rows):
            if row.counts is not None:
                row.counts = row.counts.at[ids[i]].add(1.0)
        return ids

    def report(self, slots: tuple[Slot, ...], logits: mx.array, ids: mx.array) -> Report | None:
        """How likely the sampled `ids`, int32 `[rows]`, were by the raw `logits`, for the rows
        that asked for it; None when none did."""
        batch = self._columns(slots)
        return Report(batch.asked, logits, ids) if batch.asked else None

    def states(self, slots: tuple[Slot, ...]) -> list[mx.array]:
        """Penalty counts of `slots`, to be evaluated with the launch that changed them."""
        counts = [self._rows[slot].counts for slot in slots if slot in self._rows]
        return [array for array in counts if array is not None]

    def _columns(self, slots: tuple[Slot, ...]) -> _Batch:
        if self._batch is None or self._batch.slots != slots:
            self._batch = _Batch(slots, [self._row(slot) for slot in slots])
        return self._batch

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

    def _without_ends(
        self, batch: _Batch, positions: Sequence[int], allowed: mx.array | None
    ) -> mx.array | None:
        """`allowed` less the end ids of the rows that may not end yet."""
        early = [place < first for place, first in zip(positions, batch.end_from, strict=True)]
        if not any(early):
            return allowed
        anything = mx.ones((self._vocab,), dtype=mx.bool_)
        going_on = mx.stack(
            [
                row.goes_on if held and row.goes_on is not None else anything
                for held, row in zip(early, batch.rows, strict=True)
            ]
        )
        return going_on if allowed is None else allowed & going_on

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


class Report:
    """Likelihoods of one launch's ids. Built on the engine thread; once `arrays` are
    evaluated, `read` may be called on another one."""

    def __init__(
        self, asked: Sequence[tuple[int, Slot, int]], logits: mx.array, ids: mx.array
    ) -> None:
        """`asked` are the rows that are reported: index, slot, how many of the likeliest."""
        self._asked = asked
        index = mx.array([row for row, _, _ in asked])
        scores = logits[index].astype(mx.float32)
        scores -= mx.logsumexp(scores, axis=-1, keepdims=True)
        widest = min(max(count for _, _, count in asked), scores.shape[-1])
        self._chosen = mx.take_along_axis(scores, ids[index][:, None], axis=-1)
        self.arrays = [self._chosen]
        """To be evaluated with the launch."""
        self._likeliest = _likeliest(scores, widest) if widest else None
        self.arrays += self._likeliest or ()

    def read(self) -> tuple[Likelihood, ...]:
        """One for each row that asked, in the order of the rows."""
        chosen: list[list[float]] = self._chosen.tolist()  # type: ignore[assignment]
        tops: list[list[tuple[int, float]]] = [[] for _ in self._asked]
        if self._likeliest is not None:
            ids: list[list[int]] = self._likeliest[0].tolist()  # type: ignore[assignment]
            values: list[list[float]] = self._likeliest[1].tolist()  # type: ignore[assignment]
            tops = [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
        return tuple(
            Likelihood(slot, logprob, tuple(top[:count]))
            for (_, slot, count), (logprob,), top in zip(self._asked, chosen, tops, strict=True)
        )


def _likeliest(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids of the largest scores of each row, largest first, and those: `[rows, count]`."""
    ids = mx.argpartition(-scores, count - 1, axis=-1)[:, :count]
    values = mx.take_along_axis(scores, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    ids = mx.take_along_axis(ids, order, axis=-1)
    return ids, mx.take_along_axis(values, order, axis=-1)


class _Batch:
    """What a fixed list of rows asks for, as columns, float32 `[rows, 1]`."""

    def __init__(self, slots: tuple[Slot, ...], rows: list[_Row]) -> None:
        params = [row.sampling for row in rows]
        self.slots = slots
        self.rows = rows
        self.penalized = any(row.counts is not None for row in rows)
        self.biased = any(row.bias is not None for row in rows)
        self.random = not all(p.greedy for p in params)
        self.plain = not (self.penalized or self.biased or self.random)
        self.end_from = [row.end_from for row in rows]
        self.asked = [
            (i, slot, row.logprobs)
            for i, (slot, row) in enumerate(zip(slots, rows, strict=True))
            if row.logprobs is not None
        ]
        if self.plain:
            return
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
