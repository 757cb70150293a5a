"""One step of the plan, turned into launches on the device.

Nothing here waits for a result, so the next launch can be built while one computes; where a
launch depends on ids that must be known first, it says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from cluster.core.config import DRAFT_ROWS
from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.core.plan import Admit, Chunk, Park, Restore, Save, Step
from cluster.engine.acceptance import Acceptance
from cluster.engine.agree import Agreement
from cluster.engine.bandwidth import Bandwidth
from cluster.engine.batch import DecodeBatch
from cluster.engine.draft import Drafter
from cluster.engine.draft_model import DraftModel
from cluster.engine.grammar import Grammars
from cluster.engine.group import Group
from cluster.engine.launch import Launch, Turn
from cluster.engine.loader import LoadedModel
from cluster.engine.ragged import plain, split
from cluster.engine.sampler import Sampler
from cluster.engine.shelf import Shelf
from cluster.engine.slots import SlotTable, start, states
from cluster.engine.speculation import Drafts, draft, may_draft

SPLIT = 128
"""A last chunk of more tokens than this is forwarded in two, so that the output layer, often
the widest, is computed for one position only."""


@dataclass(frozen=True, slots=True)
class _Forward:
    """A decode iteration that has been built up to its logits."""

    logits: mx.array
    """`[n, vocab]`."""
    drafts: Drafts
    slots: tuple[Slot, ...]
    """Of each row of the logits, as is the next."""
    places: tuple[int, ...]
    """Positions of the ids to be sampled."""
    lengths: tuple[int, ...]
    """As in Launch."""


class Executor:
    """Slots, batch and sampler of one rank. Lives on the engine thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        group: Group | None,
        *,
        grammars: Callable[[int], Grammars] | None = None,
        shelf: Shelf | None = None,
        draft_model: DraftModel | None = None,
    ) -> None:
        """`grammars` makes rank 0's, given the vocabulary; `shelf` as in `reset`. Either every rank
        has a `draft_model` or none."""
        self._loaded = loaded
        self._model = loaded.model
        self._agreement = Agreement(group)
        self._alone = group is None
        self._draft_model = draft_model
        self._draft_rows = DRAFT_ROWS if plain(loaded.new_caches()) else 1
        """Nothing is drafted for more together: rows that mlx-lm merges can't be cut apart."""
        self.vocab = self._warm_up()
        """Number of ids that the model tells apart."""
        self.bandwidth = Bandwidth(loaded.module)
        samples = self._agreement.samples
        self._grammars = grammars(self.vocab) if grammars is not None and samples else None
        self._turns: dict[Slot, Turn] = {}
        self._sampler = Sampler(self.vocab)
        self.reset(shelf)

    def reset(self, shelf: Shelf | None) -> None:
        """Begin anew, with empty slots: to be called when `note` was told of all launches.
        Without a `shelf`, nothing can be saved."""
        self._shelf = shelf
        for slot in list(self._turns):
            self._leave(slot)
        self._slots = SlotTable(self._loaded)
        self._batch = DecodeBatch(self._model, self._slots, alone=self._alone)
        self._unsettled: Launch | None = None
        """The latest launch, if it changed what only its ids can tell: lengths (where there were
        drafts), a grammar's state."""

    def run(self, step: Step) -> Iterator[Launch | None]:
        """Apply `step`, a launch at a time: each `next` builds one and hands it to MLX; or
        gives None, and must not be called again until `note` was told of all launches.

        Parts are applied in the order of `plan.Step`. Raises StepRefused when the step names
        a slot or position that can't be meant; state is then undefined and the epoch over.
        Iterations are left out once `note` has said that every row has ended.
        """
        if self._unsettled is not None:
            yield None
        self._edit(step)
        if (step.iterations > 0) != bool(step.decode) or step.iterations < 0:
            raise StepRefused(f"{step.iterations} iterations of {len(step.decode)} rows")
        if step.decode:
            self._batch.arrange(step.decode)
        turns = self._turns_of(self._batch.rows)
        for _ in range(step.iterations):
            drafted = self._unsettled is not None and self._unsettled.drafts
            if drafted or (len(turns) <= self._draft_rows and may_draft(turns)):
                yield None
            if all(turn.ended for turn in turns):
                break
            forward = self._forward(turns)
            if self._unsettled is not None:
                yield None  # a mask waits for the ids before it; the forward pass was built already
            yield self._decode(turns, forward)
        for chunks in self._together(step.chunks):
            if self._unsettled is not None:
                yield None
            yield self._prefill(chunks[0]) if len(chunks) == 1 else self._prefill_all(chunks)

    def note(self, launch: Launch, ids: Sequence[int]) -> None:
        """The ids that a launch sampled are known. To be called between the same launches on
        every rank, since it decides what comes next."""
        accepted = launch.accept(ids)
        for i, got in enumerate(accepted):
            turn = launch.turns[i]
            drafted = len(launch.drafts[i]) if launch.drafts else 0
            modelled = launch.rows[i] in launch.modelled
            if turn.drafter is not None:
                turn.drafter.note(got, 0 if modelled else drafted)
            if turn.acceptance is not None:
                turn.acceptance.note(len(got), drafted if modelled else 0)
            if turn.constrained and not turn.ended and self._grammars is not None:
                for token in got:
                    self._grammars.note(launch.rows[i], token)
            turn.ended = turn.ended or not turn.end_ids.isdisjoint(got)
        if launch.drafts:
            width = max(map(len, launch.drafts))
            self._batch.settle(width, dict(zip(launch.rows, accepted, strict=True)))
        if launch is self._unsettled:
            self._unsettled = None

    @property
    def slots(self) -> int:
        """How many slots hold a sequence or a parked prefix."""
        return len(self._slots)

    # Edits

    def _edit(self, step: Step) -> None:
        self._batch.leave({*step.release, *(park.slot for park in step.park)})
        for slot in step.release:
            self._slots.drop(slot)
            self._leave(slot)
        for park in step.park:
            self._park(park)
        for save in step.save:
            self._save(save)
        for fork in step.fork:
            self._batch.leave((fork.source,))
            self._slots.fork(fork.source, fork.slot, fork.keep)
        for restore in step.restore:
            self._restore(restore)
        for admit in step.admit:
            self._admit(admit)

    def _park(self, park: Park) -> None:
        self._slots.trim(park.slot, park.keep)
        self._slots[park.slot].latest = None
        self._leave(park.slot)
        # An edit may leave lazy copies behind; computed now, they free what they came from.
        start(states(self._slots[park.slot].caches))

    def _save(self, save: Save) -> None:
        if self._shelf is None:
            raise StepRefused(f"slot {save.slot} is to be saved, but there is no folder for it")
        sequence = self._slots[save.slot]
        if sequence.length != len(save.ids):
            raise StepRefused(f"slot {save.slot} holds {sequence.length}, not {len(save.ids)}")
        self._shelf.save(save.entry, save.scope, save.ids, copy.deepcopy(sequence.caches))

    def _restore(self, restore: Restore) -> None:
        if self._shelf is None:
            raise StepRefused(f"slot {restore.slot} is to be restored, but nothing is on disk")
        self._slots.put(restore.slot, *self._shelf.adopt(restore.entry))

    def _admit(self, admit: Admit) -> None:
        if admit.slot not in self._slots:
            self._slots.create(admit.slot)
        self._slots.trim(admit.slot, admit.keep)
        drafts = admit.draft > 0 and self._loaded.trimmable
        ids = [*admit.history, *admit.generated]
        self._turns[admit.slot] = Turn(
            frozenset(admit.end_ids),
            constrained=bool(admit.grammar),
            drafter=Drafter(ids, admit.draft) if drafts else None,
            acceptance=Acceptance(len(ids), admit.draft) if drafts and self._draft_model else None,
        )
        if self._agreement.samples:
            self._sampler.admit(admit)
            if self._grammars is not None:
                self._grammars.admit(admit)

    def _leave(self, slot: Slot) -> None:
        """The sequence in `slot` has ended."""
        self._sampler.drop(slot)
        if self._grammars is not None:
            self._grammars.drop(slot)
        if self._draft_model is not None:
            self._draft_model.drop(slot)
        self._turns.pop(slot, None)

    # Launches

    def _forward(self, turns: tuple[Turn, ...]) -> _Forward:
        """Build a decode iteration up to its logits."""
        rows = self._batch.rows
        drafted = Drafts()
        if len(rows) <= self._draft_rows:
            drafted = draft(dict(zip(rows, turns, strict=True)), self._draft_model, self.vocab)
        drafts = drafted.ids
        logits = self._batch.forward(dict(zip(rows, drafts, strict=True)) if drafts else None)
        lengths = tuple(self._slots[slot].length for slot in rows)
        if drafts:
            # One row of logits for each id that may be sampled.
            each = list(zip(rows, lengths, map(len, drafts), strict=True))
            slots = tuple(slot for slot, _, count in each for _ in range(1 + count))
            places = tuple(length + i for _, length, count in each for i in range(1 + count))
            lengths = tuple(length + count for _, length, count in each)
        else:
            slots, places = rows, lengths
        return _Forward(logits, drafted, slots, places, lengths)

    def _decode(self, turns: tuple[Turn, ...], forward: _Forward) -> Launch:
        rows, drafts = self._batch.rows, forward.drafts
        self._begin_masks(rows)
        launch = self._launch(
            rows, turns, forward.lengths, forward.logits, forward.slots, forward.places
        )
        launch.drafts, launch.modelled = drafts.ids, drafts.modelled
        if drafts.ids:
            self._unsettled = launch
        else:
            self._batch.advance(launch.done)
        self._hand_over(launch, self._batch.states())
        return launch

    def _prefill(self, chunk: Chunk) -> Launch:
        sequence = self._slots[chunk.slot]
        self._check(chunk, sequence.length)
        self._batch.leave((chunk.slot,))
        rows = (chunk.slot,)
        turns = self._turns_of(rows)
        if chunk.sample:
            self._begin_masks(rows)
        tokens = mx.array(chunk.tokens, dtype=mx.int32)[None]
        last = 1 if chunk.sample and len(chunk.tokens) > SPLIT else len(chunk.tokens)
        if last < len(chunk.tokens):
            self._model(tokens[:, :-last], cache=sequence.caches)
        logits = self._model(tokens[:, -last:], cache=sequence.caches)
        sequence.length += len(chunk.tokens)
        lengths = (sequence.length,)
        if chunk.sample:
            launch = self._launch(rows, turns, lengths, logits[:, -1], rows, lengths)
            sequence.latest = launch.done
        else:
            # Nothing asks for the logits, so they are never computed.
            launch = Launch(rows, turns, lengths, True, mx.zeros((0,), dtype=mx.int32))
            sequence.latest = None
        launch.chunk = True
        self._hand_over(launch, states(sequence.caches))
        return launch

    def _together(self, chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
        """`chunks` in their order; short whole prompts that follow each other in one list, to be
        forwarded as rows, since reading the weights is most of the work of each."""
        group: list[Chunk] = []
        for chunk in chunks:
            width = max(len(each.tokens) for each in (chunk, *group))
            fits = (len(group) + 1) * width <= SPLIT and self._fresh(chunk)
            if group and not (fits and self._fresh(group[0])):
                yield group
                group = []
            group.append(chunk)
        if group:
            yield group

    def _fresh(self, chunk: Chunk) -> bool:
        """True for a whole prompt whose cache can be a row among others."""
        return chunk.sample and chunk.start == 0 and plain(self._slots[chunk.slot].caches)

    def _prefill_all(self, chunks: Sequence[Chunk]) -> Launch:
        """Whole prompts as rows, shorter ones followed by anything: nothing before it sees it."""
        rows = tuple(chunk.slot for chunk in chunks)
        sequences = [self._slots[slot] for slot in rows]
        for chunk, sequence in zip(chunks, sequences, strict=True):
            self._check(chunk, sequence.length)
        turns = self._turns_of(rows)
        self._begin_masks(rows)
        lengths = tuple(len(chunk.tokens) for chunk in chunks)
        width = max(lengths)
        padded = [[*chunk.tokens, *[0] * (width - len(chunk.tokens))] for chunk in chunks]
        caches = self._loaded.new_caches()
        logits = self._model(mx.array(padded, dtype=mx.int32), cache=caches)
        last = mx.array([length - 1 for length in lengths])
        logits = logits[mx.arange(len(rows)), last]
        launch = self._launch(rows, turns, lengths, logits, rows, lengths)
        launch.chunk = True
        for row, (sequence, own) in enumerate(zip(sequences, split(caches, lengths), strict=True)):
            sequence.caches, sequence.length = own, lengths[row]
            sequence.latest = launch.done[row : row + 1]
        self._hand_over(
            launch, [each for sequence in sequences for each in states(sequence.caches)]
        )
        return launch

    def _launch(
        self,
        rows: tuple[Slot, ...],
        turns: tuple[Turn, ...],
        lengths: tuple[int, ...],
        logits: mx.array,
        slots: tuple[Slot, ...],
        places: Sequence[int],
    ) -> Launch:
        """Sample on rank 0 and agree: `logits` are `[n, vocab]`, of which row i belongs to
        `slots[i]` and gives the id at position `places[i]`."""
        chosen, report = None, None
        if self._agreement.samples:
            allowed = self._masks(slots, logits)
            chosen = self._sampler.sample(slots, logits, places, allowed)
            report = self._sampler.report(slots, logits, chosen)
        ids = self._agreement.agree(logits, chosen)
        launch = Launch(rows, turns, lengths, False, ids, report=report)
        if any(turn.constrained for turn in turns):
            self._unsettled = launch
        return launch

    def _begin_masks(self, rows: tuple[Slot, ...]) -> None:
        """What grammars allow next is worked out while the forward pass is computed."""
        if self._grammars is not None:
            self._grammars.begin(rows)

    def _masks(self, slots: tuple[Slot, ...], logits: mx.array) -> mx.array | None:
        """What grammars allow, bool `[n, vocab]`; None when there are none."""
        if self._grammars is None or not any(slot in self._grammars for slot in slots):
            return None
        start([logits])
        allowed = self._grammars.allowed(slots)
        return None if allowed is None else mx.array(allowed)

    def _hand_over(self, launch: Launch, caches: list[mx.array]) -> None:
        """Hand the graph to MLX; `done` becomes available when all of it is computed."""
        # The caches are evaluated with the ids: some (linear attention's) are no ancestors of
        # the logits, and every rank must issue the same collectives.
        more = [*caches, *self._sampler.states(launch.rows)]
        if launch.report is not None:
            more += launch.report.arrays
        launch.done = mx.depends(launch.done, more)
        start([launch.done])

    def _turns_of(self, rows: tuple[Slot, ...]) -> tuple[Turn, ...]:
        try:
            return tuple(self._turns[slot] for slot in rows)
        except KeyError as error:
            raise StepRefused(f"slot {error} has no sequence") from None

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
        caches = self._loaded.new_caches()
        ids = mx.zeros((8,), dtype=mx.int32)
        vocab = 0
        for _ in range(2):
            logits = self._model(ids[None], cache=caches)[:, -1]
            chosen = mx.argmax(logits, axis=-1).astype(mx.int32)
            ids = self._agreement.agree(logits, chosen if self._agreement.samples else None)
            mx.eval(ids, states(caches))
            vocab = logits.shape[-1]
        return vocab
