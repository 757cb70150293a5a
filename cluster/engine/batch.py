"""The decode batch: which rows there are, in which bundles, and their latest tokens.

Rows of very different lengths are not bundled: every row of a bundle takes the room, and the
attention the time, of its longest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.engine.bundle import Bundle, Merged, Ragged, Single, bundle_of
from cluster.engine.slots import SlotTable, start, states

ALIKE = 512
"""Rows up to this length are bundled whatever their lengths; above it, the longest may be at
most half as long again as the shortest."""


@dataclass(slots=True)
class _Part:
    """One bundle of the batch."""

    slots: list[Slot]
    bundle: Bundle


class DecodeBatch:
    """The rows being decoded, on the device. Row order is its own: part by part."""

    def __init__(self, model: Any, slots: SlotTable, *, alone: bool) -> None:
        """`alone` says that no other rank computes the same."""
        self._model = model
        self._alone = alone
        self._slots = slots
        self._parts: list[_Part] = []
        self._tokens: mx.array | None = None
        """Latest token of each row, int32 `[rows]`; None when the rows have changed and each
        slot has its own."""

    @property
    def rows(self) -> tuple[Slot, ...]:
        """Slots in the order of the rows."""
        return tuple(slot for part in self._parts for slot in part.slots)

    def leave(self, slots: Collection[Slot]) -> None:
        """Give those of `slots` that are rows their own caches and latest token back."""
        leaving = [slot for slot in self.rows if slot in slots]
        if not leaving:
            return
        self._hand_back()
        freed = self._take_all(leaving)
        # Computed now: an unevaluated copy would keep the whole batch's buffers alive, and
        # every later write to them would copy them first. Where nobody stays in a bundle,
        # nothing else holds its arrays any more, and each layer's go as soon as they are copied.
        start(freed)
        for part in self._parts:
            part.bundle.compact()

    def arrange(self, rows: tuple[Slot, ...]) -> None:
        """Make `rows` the batch; rows that are no longer in it get their caches back.

        Raises StepRefused when a slot is named twice, empty, or has no token to go on from.
        """
        mine = set(self.rows)
        wanted = set(rows)
        if wanted == mine and len(rows) == len(mine):
            return
        if len(wanted) != len(rows):
            raise StepRefused(f"a slot is named twice in decode {list(rows)}")
        for slot in rows:
            if self._slots[slot].latest is None and slot not in mine:
                raise StepRefused(f"slot {slot} is to decode, but no token was sampled in it yet")
        self.leave(mine - wanted)
        self._hand_back()
        joining = [slot for slot in rows if slot not in mine]
        for i, slot in enumerate(joining):
            self._join(slot, joining[i + 1 :])

    def forward(self, drafts: Mapping[Slot, Sequence[int]] | None = None) -> mx.array:
        """Feed each row its latest token, and what was drafted for it: logits `[n, vocab]`, one
        for each row's token followed by its drafts. Lengths grow by one; by `settle` for
        drafts."""
        tokens = self._latest()
        if len(self._parts) == 1:
            return self._forward(self._parts[0], tokens, drafts or {})
        logits: list[mx.array] = []
        done = 0
        for part in self._parts:
            here = tokens[done : done + len(part.slots)]
            done += len(part.slots)
            logits.append(self._forward(part, here, drafts or {}))
            if not self._alone:
                # Nothing else says in which order the parts' collectives are issued, and it
                # must be the same on every rank.
                start([logits[-1], *part.bundle.states()])
        return mx.concatenate(logits)

    def advance(self, ids: mx.array) -> None:
        """`ids`, int32 `[rows]`, are the rows' latest tokens now."""
        self._tokens = ids

    def settle(self, drafted: int, accepted: Mapping[Slot, Sequence[int]]) -> None:
        """It is known what came of the drafts, which were at most `drafted` ids for a row: each
        row goes on behind its `accepted` ids, of which there is at least one."""
        for part in self._parts:
            for slot in part.slots:
                self._slots[slot].length += len(accepted[slot]) - 1
            if isinstance(part.bundle, Single):
                width = 1 + drafted
                part.bundle.cut(width - len(accepted[part.slots[0]]))
        self._tokens = mx.array([accepted[slot][-1] for slot in self.rows], dtype=mx.int32)

    def rewind(self, lengths: Mapping[Slot, int]) -> None:
        """Each row keeps so many positions, at most as many as it has; `feed` must follow."""
        for part in self._parts:
            for slot in part.slots:
                sequence = self._slots[slot]
                if isinstance(part.bundle, Single):
                    part.bundle.cut(sequence.length - lengths[slot])
                sequence.length = lengths[slot]

    def feed(self, ids: Mapping[Slot, Sequence[int]]) -> mx.array:
        """Feed each row `ids`, equally many, in place of its latest token: logits
        `[rows, vocab]` behind the last of them. `advance` must follow before `forward`."""
        logits = []
        for part in self._parts:
            sequences = [self._slots[slot] for slot in part.slots]
            tokens = mx.array([list(ids[slot]) for slot in part.slots], dtype=mx.int32)
            width = tokens.shape[1]
            caches = part.bundle.begin([sequence.length for sequence in sequences], width)
            logits.append(self._model(tokens, cache=caches)[:, -1])
            for sequence in sequences:
                sequence.length += width
        return mx.concatenate(logits)

    def states(self) -> list[mx.array]:
        """Every array of the rows' caches."""
        return [array for part in self._parts for array in part.bundle.states()]

    def _forward(
        self, part: _Part, tokens: mx.array, drafts: Mapping[Slot, Sequence[int]]
    ) -> mx.array:
        sequences = [self._slots[slot] for slot in part.slots]
        width = 1 + max((len(draft) for draft in drafts.values()), default=0)
        inputs = tokens[:, None]
        if width > 1:
            padded = [[*drafts[s], *[0] * (width - 1 - len(drafts[s]))] for s in part.slots]
            inputs = mx.concatenate([inputs, mx.array(padded, dtype=mx.int32)], axis=1)
        caches = part.bundle.begin([sequence.length for sequence in sequences], width)
        logits: mx.array = self._model(inputs, cache=caches)
        for sequence in sequences:
            sequence.length += 1
        if width == 1:
            return logits[:, -1]
        wanted = [
            row * width + i for row, s in enumerate(part.slots) for i in range(1 + len(drafts[s]))
        ]
        return logits.reshape(-1, logits.shape[-1])[mx.array(wanted)]

    def _latest(self) -> mx.array:
        if self._tokens is None:
            self._tokens = mx.concatenate([_token(self._slots, slot) for slot in self.rows])
        return self._tokens

    def _hand_back(self) -> None:
        """Rows are about to change: each slot gets its latest token."""
        if self._tokens is None:
            return
        for row, slot in enumerate(self.rows):
            self._slots[slot].latest = self._tokens[row : row + 1]
        self._tokens = None

    def _take_all(self, leaving: Sequence[Slot]) -> list[mx.array]:
        """Take rows out of their parts; the arrays that are their own now, layer by layer."""
        freed: list[list[mx.array]] = []
        for slot in leaving:
            part = next(part for part in self._parts if slot in part.slots)
            freed.append(self._take(part, slot))
            if len(part.slots) == 1 and not isinstance(part.bundle, Single):
                freed.append(self._separate(part))
        self._parts = [part for part in self._parts if part.slots]
        return [array for layer in zip(*freed, strict=True) for array in layer]

    def _take(self, part: _Part, slot: Slot) -> list[mx.array]:
        """Take one row out of its part; the arrays that are its own now."""
        sequence = self._slots[slot]
        row = part.slots.index(slot)
        sequence.caches = part.bundle.leave(row, sequence.length)
        if row == 0:
            del part.slots[0]
        elif (last := part.slots.pop()) != slot:
            part.slots[row] = last
        token = _token(self._slots, slot)
        return [token, *states(sequence.caches)]

    def _separate(self, part: _Part) -> list[mx.array]:
        """A row that is left alone is faster on caches of its own."""
        slot = part.slots[0]
        freed = self._take(part, slot)
        part.slots = [slot]
        part.bundle = Single(self._slots[slot].caches)
        return freed

    def _join(self, slot: Slot, next_ones: Sequence[Slot]) -> None:
        """Add a row to the first part that takes it, or by itself. Room is made at once for
        those of `next_ones` that will probably join the same part."""
        sequence = self._slots[slot]
        for part in self._parts:
            lengths = [*(self._slots[s].length for s in part.slots), sequence.length]
            if not _alike(lengths):
                continue
            more = sum(_alike([*lengths, self._slots[s].length]) for s in next_ones)
            place = len(part.slots)
            if isinstance(part.bundle, Ragged | Merged):
                place = part.bundle.join(sequence.caches, sequence.length, more)
            else:
                both = [self._slots[part.slots[0]], sequence]
                bundle = bundle_of([s.caches for s in both], [s.length for s in both], more)
                if bundle is None:
                    continue
                part.bundle = bundle
                both[0].caches = []
            part.slots.insert(place, slot)
            sequence.caches = []
            return
        self._parts.append(_Part([slot], Single(sequence.caches)))


def _token(slots: SlotTable, slot: Slot) -> mx.array:
    latest = slots[slot].latest
    assert latest is not None  # arrange has checked it
    return latest


def _alike(lengths: Sequence[int]) -> bool:
    return max(lengths) <= max(ALIKE, 1.5 * min(lengths))
