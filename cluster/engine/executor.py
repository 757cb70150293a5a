"""One step of the plan, turned into launches on the device.

A launch is one graph handed to MLX: a decode iteration of the whole batch or one prefill
chunk. Nothing here waits for a result, so the next launch can be built while one computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.core.plan import Admit, Chunk, Park, Step
from cluster.engine.agree import Agreement
from cluster.engine.batch import DecodeBatch
from cluster.engine.group import Group
from cluster.engine.loader import LoadedModel
from cluster.engine.sampler import Sampler
from cluster.engine.slots import SlotTable, start, states

SPLIT = 128
"""A last chunk of more tokens than this is forwarded in two, so that the output layer, often
the widest, is computed for one position only."""


@dataclass(slots=True)
class Turn:
    """One sequence's stay in a slot, for as long as it may be decoded."""

    end_ids: frozenset[int]
    ended: bool = False
    """It is known to have sampled an end id."""


@dataclass(slots=True)
class Launch:
    """Work under way on the device."""

    rows: tuple[Slot, ...]
    turns: tuple[Turn, ...]
    """Of each row."""
    lengths: tuple[int, ...]
    """Cache length of each row after the launch."""
    chunk: bool
    """A prefill chunk; otherwise a decode iteration."""
    done: mx.array
    """The sampled ids, int32 `[rows]`, or empty for a chunk that samples nothing. Used by
    nobody else, so that another thread may wait for it."""


class Executor:
    """Slots, batch and sampler of one rank. Lives on the engine thread."""

    def __init__(self, loaded: LoadedModel, group: Group | None) -> None:
        self._model = loaded.model
        self._agreement = Agreement(group)
        self.vocab = self._warm_up()
        """Number of ids that the model tells apart."""
        self._slots = SlotTable(loaded)
        self._batch = DecodeBatch(self._model, self._slots)
        self._sampler = Sampler(self.vocab)
        self._turns: dict[Slot, Turn] = {}

    def run(self, step: Step) -> Iterator[Launch]:
        """Apply `step`, a launch at a time: each `next` builds one and hands it to MLX.

        Parts are applied in the order of `plan.Step`. Raises StepRefused when the step names
        a slot or position that can't be meant; state is then undefined and the epoch over.
        Iterations are left out once `note` has said that every row has ended.
        """
        self._edit(step)
        if (step.iterations > 0) != bool(step.decode) or step.iterations < 0:
            raise StepRefused(f"{step.iterations} iterations of {len(step.decode)} rows")
        if step.decode:
            self._batch.arrange(step.decode)
        turns = self._turns_of(step.decode)
        for _ in range(step.iterations):
            if all(turn.ended for turn in turns):
                break
            yield self._decode()
        for chunk in step.chunks:
            yield self._prefill(chunk)

    def note(self, launch: Launch, ids: list[int]) -> None:
        """The ids that a launch sampled are known. To be called between the same launches on
        every rank, since it decides which are left out."""
        for turn, token in zip(launch.turns, ids, strict=False):  # no ids without `sample`
            turn.ended = turn.ended or token in turn.end_ids

    @property
    def slots(self) -> int:
        """How many slots hold a sequence or a parked prefix."""
        return len(self._slots)

    def _edit(self, step: Step) -> None:
        self._batch.leave({*step.release, *(park.slot for park in step.park)})
        for slot in step.release:
            self._slots.drop(slot)
            self._leave(slot)
        for park in step.park:
            self._park(park)
        for fork in step.fork:
            self._slots.fork(fork.source, fork.slot, fork.keep)
        for admit in step.admit:
            self._admit(admit)

    def _park(self, park: Park) -> None:
        self._slots.trim(park.slot, park.keep)
        self._slots[park.slot].latest = None
        self._leave(park.slot)
        # An edit may leave lazy copies behind; computed now, they free what they came from.
        start(states(self._slots[park.slot].caches))

    def _leave(self, slot: Slot) -> None:
        """The sequence in `slot` has ended."""
        self._sampler.drop(slot)
        self._turns.pop(slot, None)

    def _turns_of(self, rows: tuple[Slot, ...]) -> tuple[Turn, ...]:
        try:
            return tuple(self._turns[slot] for slot in rows)
        except KeyError as error:
            raise StepRefused(f"slot {error} has no sequence") from None

    def _admit(self, admit: Admit) -> None:
        if admit.slot not in self._slots:
            self._slots.create(admit.slot)
        self._slots.trim(admit.slot, admit.keep)
        self._turns[admit.slot] = Turn(frozenset(admit.end_ids))
        if self._agreement.samples:
            self._sampler.admit(admit.slot, admit.sampling, admit.history, admit.generated)

    def _decode(self) -> Launch:
        rows = self._batch.rows
        logits = self._batch.forward()
        lengths = tuple(self._slots[slot].length for slot in rows)
        ids = self._next(rows, logits, lengths)
        self._batch.advance(ids)
        done = self._start(rows, ids, self._batch.states())
        return Launch(rows, self._turns_of(rows), lengths, False, done)

    def _prefill(self, chunk: Chunk) -> Launch:
        sequence = self._slots[chunk.slot]
        self._check(chunk, sequence.length)
        self._batch.leave((chunk.slot,))
        tokens = mx.array(chunk.tokens, dtype=mx.int32)[None]
        last = 1 if chunk.sample and len(chunk.tokens) > SPLIT else len(chunk.tokens)
        if last < len(chunk.tokens):
            self._model(tokens[:, :-last], cache=sequence.caches)
        logits = self._model(tokens[:, -last:], cache=sequence.caches)
        sequence.length += len(chunk.tokens)
        rows, lengths = (chunk.slot,), (sequence.length,)
        # Without `sample` nothing asks for the logits, so they are never computed.
        ids = self._next(rows, logits[:, -1], lengths) if chunk.sample else None
        sequence.latest = ids
        done = self._start(rows, ids, states(sequence.caches))
        return Launch(rows, self._turns_of(rows), lengths, True, done)

    def _next(self, rows: tuple[Slot, ...], logits: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """Sample on rank 0 and agree: int32 `[rows]`."""
        # With n positions in the cache, the token being sampled is at position n.
        chosen = self._sampler.sample(rows, logits, lengths) if self._agreement.samples else None
        return self._agreement.agree(logits, chosen)

    def _start(
        self, rows: tuple[Slot, ...], ids: mx.array | None, caches: list[mx.array]
    ) -> mx.array:
        """Hand the graph to MLX; the result becomes available when all of it is computed."""
        # The caches are evaluated with the ids: some (linear attention's) are no ancestors of
        # the logits, and every rank must issue the same collectives.
        result = mx.zeros((0,), dtype=mx.int32) if ids is None else ids
        done: mx.array = mx.depends(result, [*caches, *self._sampler.states(rows)])
        start([done])
        return done

    def _check(self, chunk: Chunk, length: int) -> None:
        if chunk.start != length:
            raise StepRefused(
                f"chunk of slot {chunk.slot} starts at {chunk.start}, its cache holds {length}"
            )
        if not chunk.tokens:
            raise StepRefused(f"chunk of slot {chunk.slot} has no tokens")
        if min(chunk.tokens) < 0 or max(chunk.tokens) >= self.vocab:
            raise StepRefused(f"chunk of slot {chunk.slot} has ids outside 0..{self.vocab - 1}")

    def _warm_up(self) -> int:
        """Compile what a first request needs, on all ranks alike; returns the vocabulary."""
        caches = make_prompt_cache(self._model)
        ids = mx.zeros((8,), dtype=mx.int32)
        vocab = 0
        for _ in range(2):
            logits = self._model(ids[None], cache=caches)[:, -1]
            chosen = mx.argmax(logits, axis=-1).astype(mx.int32)
            ids = self._agreement.agree(logits, chosen if self._agreement.samples else None)
            mx.eval(ids, states(caches))
            vocab = logits.shape[-1]
        return vocab
