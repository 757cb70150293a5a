"""Drafts by a second, small model, which rank 0 alone computes.

Unlike chips may take different ids for the likeliest, and a draft must be the same on every rank:
the others are told. A draft is greedy, and is only ever compared with what the model itself says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from cluster.core.cluster import ShardPlan
from cluster.core.config import DRAFT_ROWS
from cluster.core.errors import BadConfiguration
from cluster.core.ids import Rank, Slot
from cluster.engine.agree import Agreement
from cluster.engine.batch import DecodeBatch
from cluster.engine.loader import LoadedModel, Progress, load
from cluster.engine.ragged import plain
from cluster.engine.slots import SlotTable, start, states

FED = 2
"""Ids that each round begins with: the last one of all, and the one before it, which was never fed
where all that was drafted was right. To feed an id again changes nothing."""


def load_draft(folder: Path, progress: Progress) -> LoadedModel:
    """Read the whole draft model in `folder`; raises as `load`, and BadConfiguration when its
    caches can't be cut."""
    loaded = load(folder, ShardPlan(1, Rank(0)), None, progress)
    if not plain(loaded.new_caches()):
        raise BadConfiguration(
            f"the draft model in {folder} keeps caches that can't be cut behind a wrong draft "
            "(windows, states): choose one with full attention in every layer"
        )
    return loaded


@dataclass(frozen=True, slots=True)
class Wanted:
    """A draft for one row."""

    slot: Slot
    ids: Sequence[int]
    """What the draft model reads of the sequence, up to its latest id: more than FED."""
    keep: int
    """How many of them it has read already."""
    count: int
    """Ids to draft."""


class DraftModel:
    """The draft model as every rank knows it. Lives on the engine thread."""

    def __init__(self, loaded: LoadedModel | None, agreement: Agreement) -> None:
        """`loaded` is None where it is not computed."""
        self._agreement = agreement
        self._drafting = _Drafting(loaded) if loaded is not None else None

    def draft(self, wanted: Sequence[Wanted], vocab: int) -> list[tuple[int, ...]]:
        """As many ids below `vocab` as each asks for. Waits for them, so nothing that a launch
        under way could change may be part of `wanted`."""
        total = sum(each.count for each in wanted)
        drafted = self._drafting.draft(wanted, vocab) if self._drafting is not None else None
        ids = iter(self._agreement.tell(drafted, total))
        return [tuple(next(ids) for _ in range(each.count)) for each in wanted]

    def drop(self, slot: Slot) -> None:
        """The sequence in `slot` has ended."""
        if self._drafting is not None:
            self._drafting.drop(slot)


class _Drafting:
    """What rank 0 computes: caches by slot, of the ids of `Wanted` and perhaps of wrong drafts
    behind them."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._slots = SlotTable(loaded)
        self._batch = DecodeBatch(loaded.model, self._slots, alone=True)
        self._known: dict[Slot, None] = {}
        """Slots with a cache, the one used longest ago first."""
        self._vocab = 0
        self._warm_up(loaded)

    def draft(self, wanted: Sequence[Wanted], vocab: int) -> mx.array:
        """As DraftModel.draft, in one array, not computed yet."""
        self._make_room([each.slot for each in wanted])
        for each in wanted:
            self._read(each)
        self._batch.arrange(tuple(each.slot for each in wanted))
        self._batch.rewind({each.slot: len(each.ids) - FED for each in wanted})
        logits = self._batch.feed({each.slot: self._inputs(each.ids[-FED:]) for each in wanted})
        columns = [self._likeliest(logits, vocab)]
        for _ in range(max(each.count for each in wanted) - 1):
            start(columns[-1:])
            self._batch.advance(columns[-1])
            columns.append(self._likeliest(self._batch.forward(), vocab))
        row = {slot: i for i, slot in enumerate(self._batch.rows)}
        drafts = mx.stack(columns, axis=1)
        return mx.concatenate([drafts[row[each.slot], : each.count] for each in wanted])

    def drop(self, slot: Slot) -> None:
        if slot in self._known:
            self._batch.leave((slot,))
            self._slots.drop(slot)
            del self._known[slot]

    def _make_room(self, slots: Sequence[Slot]) -> None:
        """Those of `slots` will be used; others are let go of where there are too many."""
        others = [slot for slot in self._known if slot not in slots]
        for slot in others[: max(0, len(others) + len(slots) - DRAFT_ROWS)]:
            self.drop(slot)
        for slot in slots:
            if slot not in self._known:
                self._slots.create(slot)
            self._known.pop(slot, None)
            self._known[slot] = None

    def _read(self, wanted: Wanted) -> None:
        """Bring its cache to where a round begins, or further."""
        sequence, end = self._slots[wanted.slot], len(wanted.ids) - FED
        keep = min(wanted.keep, sequence.length)
        if keep == end:
            return
        self._batch.leave((wanted.slot,))
        self._slots.trim(wanted.slot, keep)
        tokens = mx.array([self._inputs(wanted.ids[keep:end])], dtype=mx.int32)
        self._model(tokens, cache=sequence.caches)
        sequence.length = end
        sequence.latest = mx.array([wanted.ids[-1]], dtype=mx.int32)
        start(states(sequence.caches))

    def _inputs(self, ids: Sequence[int]) -> list[int]:
        """Two models with one vocabulary may have room for different numbers of ids."""
        return [min(token, self._vocab - 1) for token in ids]

    def _likeliest(self, logits: mx.array, vocab: int) -> mx.array:
        return mx.argmax(logits[:, :vocab], axis=-1).astype(mx.int32)

    def _warm_up(self, loaded: LoadedModel) -> None:
        """Compile what a first draft needs."""
        caches = loaded.new_caches()
        for width in (FED, 1):
            logits = self._model(mx.zeros((1, width), dtype=mx.int32), cache=caches)
            mx.eval(logits, states(caches))
            self._vocab = logits.shape[-1]
