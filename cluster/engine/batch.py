"""The decode batch: rows in the order of the plan, rebuilt only where they change.

One row works on its slot's own caches, without padding or mask, as plain mlx-lm does. Several
rows share merged caches, padded on the left to the longest: mlx-lm's `merge` and `extend` for
rows that join, `filter` and `extract` for rows that leave.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.engine.slots import Caches, SlotTable, start, states


class DecodeBatch:
    """The rows being decoded and their latest tokens, all on the device."""

    def __init__(self, model: Any, slots: SlotTable) -> None:
        self._model = model
        self._slots = slots
        self._rows: list[Slot] = []
        self._tokens: mx.array | None = None
        """Latest token of each row, int32 `[rows]`."""
        self._merged: Caches | None = None
        """The rows' caches when they are merged; None while each row has its own."""

    @property
    def rows(self) -> tuple[Slot, ...]:
        """Slots in the order of the rows."""
        return tuple(self._rows)

    def leave(self, slots: Collection[Slot]) -> None:
        """Give those of `slots` that are rows their own caches and latest token back."""
        self._part([row for row in self._rows if row not in slots])

    def arrange(self, rows: tuple[Slot, ...]) -> None:
        """Make `rows` the batch; rows that are no longer in it get their caches back.

        Raises StepRefused when a slot is named twice, empty, or has no token to go on from.
        """
        alone = self._merged is not None and len(rows) == 1
        if rows == tuple(self._rows) and not alone:
            return
        if len(set(rows)) != len(rows):
            raise StepRefused(f"a slot is named twice in decode {list(rows)}")
        for slot in rows:
            if self._slots[slot].latest is None and slot not in self._rows:
                raise StepRefused(f"slot {slot} is to decode, but no token was sampled in it yet")
        # A single row is faster on caches of its own.
        self._part([] if alone else [row for row in self._rows if row in rows])
        self._join([slot for slot in rows if slot not in self._rows])
        self._order(rows)

    def forward(self) -> mx.array:
        """Feed each row its latest token: logits `[rows, vocab]`. Lengths grow by one."""
        assert self._tokens is not None
        inputs = self._tokens[:, None]
        if self._merged is not None:
            logits: mx.array = self._model(inputs, cache=self._merged)[:, -1]
        elif len(self._rows) == 1:
            logits = self._model(inputs, cache=self._slots[self._rows[0]].caches)[:, -1]
        else:
            each = [
                self._model(inputs[i : i + 1], cache=self._slots[slot].caches)[:, -1]
                for i, slot in enumerate(self._rows)
            ]
            logits = mx.concatenate(each)
        for slot in self._rows:
            self._slots[slot].length += 1
        return logits

    def advance(self, ids: mx.array) -> None:
        """`ids`, int32 `[rows]`, are the rows' latest tokens now."""
        self._tokens = ids

    def states(self) -> list[mx.array]:
        """Every array of the rows' caches."""
        if self._merged is not None:
            return states(self._merged)
        return [array for slot in self._rows for array in states(self._slots[slot].caches)]

    def _part(self, stay: list[Slot]) -> None:
        """Keep the rows `stay`, in their order; all others leave."""
        if stay == self._rows:
            return
        assert self._tokens is not None
        index = {slot: i for i, slot in enumerate(self._rows)}
        freed: list[mx.array] = []
        for slot, i in index.items():
            if slot in stay:
                continue
            sequence = self._slots[slot]
            sequence.latest = self._tokens[i : i + 1]
            freed.append(sequence.latest)
            if self._merged is not None:
                sequence.caches = [cache.extract(i) for cache in self._merged]
                freed.extend(states(sequence.caches))
        # Computed now: an unevaluated copy would keep the whole batch's buffers alive, and
        # every later write to them would copy them first.
        start(freed)
        self._filter([index[slot] for slot in stay])
        self._rows = stay

    def _join(self, joining: list[Slot]) -> None:
        """Append the rows `joining`."""
        if not joining:
            return
        arrivals = [self._slots[slot] for slot in joining]
        latest = [sequence.latest for sequence in arrivals if sequence.latest is not None]
        before = [self._tokens] if self._tokens is not None else []
        self._tokens = mx.concatenate(before + latest)
        together = [self._slots[slot].caches for slot in self._rows] if not self._merged else []
        together += [sequence.caches for sequence in arrivals]
        if (self._merged or len(together) > 1) and all(map(_mergeable, together)):
            columns: list[list[Any]] = [list(layer) for layer in zip(*together, strict=True)]
            merged = [type(layer[0]).merge(layer) for layer in columns]
            if self._merged is None:
                self._merged = merged
            else:
                for mine, theirs in zip(self._merged, merged, strict=True):
                    mine.extend(theirs)
            for slot in [*self._rows, *joining]:
                self._slots[slot].caches = []
        self._rows = [*self._rows, *joining]

    def _order(self, rows: tuple[Slot, ...]) -> None:
        """Permute the rows into the order of the plan."""
        if tuple(self._rows) != rows:
            self._filter([self._rows.index(slot) for slot in rows])
            self._rows = list(rows)

    def _filter(self, keep: list[int]) -> None:
        """Take rows `keep`, in that order, from the tokens and the merged caches."""
        if not keep:
            self._tokens = None
            self._merged = None
            return
        assert self._tokens is not None
        index = mx.array(keep)
        self._tokens = self._tokens[index]
        for cache in self._merged or ():
            cache.filter(index)


def _mergeable(caches: Caches) -> bool:
    """True when mlx-lm can make one batch of such caches."""

    def one(cache: Any) -> bool:
        if isinstance(cache, CacheList):
            return all(one(part) for part in cache.caches)
        return hasattr(type(cache), "merge")

    return all(one(cache) for cache in caches)
