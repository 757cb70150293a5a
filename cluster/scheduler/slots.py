"""Who holds which slot, and what room there is: admission, parking, eviction."""

from __future__ import annotations

import heapq
from collections.abc import Set
from dataclasses import dataclass, field

from cluster.core.config import Limits
from cluster.core.ids import Slot
from cluster.core.plan import Admit, Fork, Park
from cluster.scheduler.prefix import Match, PrefixIndex
from cluster.scheduler.sequence import Sequence


@dataclass(slots=True)
class Edits:
    """Slot edits that wait for the next step."""

    release: list[Slot] = field(default_factory=list)
    park: list[Park] = field(default_factory=list)
    fork: list[Fork] = field(default_factory=list)
    admit: list[Admit] = field(default_factory=list)
    trimmed: int = 0
    """Positions that these admits trim away: too late for these forks, which come first."""

    def __bool__(self) -> bool:
        return bool(self.release or self.park or self.fork or self.admit)


class SlotPool:
    """Gives slots to sequences, reusing parked prefixes, within the limits.

    A step applies release, park, fork and admit in this order, so within one set of edits a
    slot number may be released and taken again, and a prefix parked and forked.
    """

    def __init__(self, limits: Limits, *, trimmable: bool) -> None:
        self._limits = limits
        self._trimmable = trimmable
        self._index = PrefixIndex(trimmable=trimmable)
        self._free: list[Slot] = []
        self._made = 0
        self._reserved = 0
        self._edits = Edits()
        self.live: dict[Slot, Sequence] = {}
        """Sequences with a slot, in the order of their admission."""

    @property
    def parked(self) -> int:
        """Number of parked prefixes."""
        return len(self._index)

    def take_edits(self) -> Edits:
        """The edits collected since the last call."""
        edits, self._edits = self._edits, Edits()
        return edits

    def admit(self, sequence: Sequence) -> bool:
        """Give the sequence a slot, at best one that holds the start of its prompt. False when
        there is no room: it must wait until a live sequence ends."""
        if len(self.live) >= self._limits.sequences:
            return False
        match = self._index.find(sequence.request.scope, sequence.feed)
        needed = min(sequence.most, len(sequence.feed) + self._limits.kv_ahead)
        copy = match is not None and not match.whole
        if copy and not self._make_room(needed, match, copy=True):
            copy = False  # not both: the sequence goes on in the prefix's slot, trimmed
        if not copy and not self._make_room(needed, match, copy=False):
            return False
        slot, keep = self._place(match, copy=copy)
        if match is not None and not copy:
            self._edits.trimmed += max(0, match.parked.length - needed)
        sequence.slot = slot
        sequence.planned_prefill = sequence.prefilled = keep
        if not sequence.fed:
            sequence.cached = keep
        sequence.reserved = needed
        self._reserved += needed
        self.live[slot] = sequence
        self._edits.admit.append(_admit(sequence, slot, keep))
        return True

    def grow(self, sequence: Sequence, length: int) -> bool:
        """Make sure that a live sequence may come to hold `length` positions. False when there
        is no room: it must wait until another one ends."""
        if length <= sequence.reserved:
            return True
        for wanted in (min(sequence.most, length + self._limits.kv_ahead), length):
            more = wanted - sequence.reserved
            if self._make_room(more, None, copy=False):
                sequence.reserved += more
                self._reserved += more
                return True
        return False

    def retire(self, sequence: Sequence) -> None:
        """The sequence has ended: keep what is known of its cache as a prefix, or drop it."""
        slot = sequence.slot
        if slot is None or self.live.pop(slot, None) is None:
            raise ValueError(f"request {sequence.request.id} has no slot")
        self._reserved -= sequence.reserved
        ids = sequence.known_ids
        exact = len(ids) == sequence.planned_length
        if not ids or self._limits.parked == 0 or not (exact or self._trimmable):
            self._drop(slot)
            return
        self._edits.park.append(Park(slot, len(ids)))
        self._index.add(slot, sequence.request.scope, ids)
        limits = self._limits
        while len(self._index) > limits.parked or self._index.tokens > limits.parked_tokens:
            self._evict()

    def _make_room(self, needed: int, match: Match | None, *, copy: bool) -> bool:
        """Evict prefixes until `needed` positions fit, beside the matching one when that is to
        be copied; none is evicted when even all would not do."""
        pinned = {fork.source for fork in self._edits.fork}  # release comes before fork
        spared = 0
        if match is not None:
            pinned.add(match.parked.slot)
            # In the prefix's own slot its positions are part of `needed`, or are trimmed.
            spared = 0 if copy else match.parked.length
        held = self._reserved + self._edits.trimmed - spared
        over = held + needed - self._limits.kv_tokens
        if over + self._index.held(pinned) > 0:
            return False
        while over + self._index.tokens > 0:
            self._evict(pinned)
        return True

    def _place(self, match: Match | None, *, copy: bool) -> tuple[Slot, int]:
        """The slot to use, and how many positions of it are already right."""
        if match is None:
            return self._new_slot(), 0
        source = match.parked.slot
        if not copy:
            self._index.remove(source)
            return source, match.keep
        self._index.touch(source)
        slot = self._new_slot()
        self._edits.fork.append(Fork(source, slot, match.keep))
        return slot, match.keep

    def _new_slot(self) -> Slot:
        if self._free:
            return heapq.heappop(self._free)
        self._made += 1
        return Slot(self._made - 1)

    def _evict(self, besides: Set[Slot] = frozenset()) -> None:
        """Drop the least recently used prefix that is not in `besides`."""
        slot = self._index.oldest(besides)
        if slot is None:
            raise ValueError("no prefix is left to evict")
        self._index.remove(slot)
        self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        # Release comes before park in a step, so a park that is not sent yet is taken back.
        self._edits.park = [park for park in self._edits.park if park.slot != slot]
        self._edits.release.append(slot)
        heapq.heappush(self._free, slot)


def _admit(sequence: Sequence, slot: Slot, keep: int) -> Admit:
    request = sequence.request
    penalized = request.sampling.penalized
    return Admit(
        slot,
        keep,
        request.sampling,
        history=request.prompt if request.sampling.repetition_penalty != 1.0 else (),
        generated=tuple(sequence.tokens) if penalized else (),
        end_ids=tuple(sorted(request.end_ids)),
    )
