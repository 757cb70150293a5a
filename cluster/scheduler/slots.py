"""Who holds which slot, and what room there is: admission, parking, eviction."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from cluster.core.config import Limits
from cluster.core.ids import Entry, Slot
from cluster.core.plan import Admit, Fork, Park, Restore
from cluster.scheduler.prefix import Held, Match, PrefixIndex, pack
from cluster.scheduler.sequence import Sequence

FEW = 16
"""A prompt has a few ids in common with any other. Less than these, and less than half of what
a prefix holds, is not worth its place."""


@dataclass(slots=True)
class Edits:
    """Slot edits that wait for the next step."""

    release: list[Slot] = field(default_factory=list)
    park: list[Park] = field(default_factory=list)
    fork: list[Fork] = field(default_factory=list)
    restore: list[Restore] = field(default_factory=list)
    admit: list[Admit] = field(default_factory=list)
    trimmed: int = 0
    """Positions that these admits trim away: too late for these forks, which come first."""

    def __bool__(self) -> bool:
        return bool(self.release or self.park or self.fork or self.restore or self.admit)

    @property
    def forked(self) -> set[Slot]:
        """Slots that these forks read or make: a release would come before them."""
        return {slot for fork in self.fork for slot in (fork.source, fork.slot)}


class SlotPool:
    """Gives slots to sequences, reusing parked prefixes, within the limits.

    A step applies release, park, fork, restore and admit in this order, so within one set of
    edits a slot number may be released and taken again, and a prefix parked and forked.
    """

    def __init__(self, limits: Limits, *, trimmable: bool) -> None:
        self._limits = limits
        self._trimmable = trimmable
        self._index: PrefixIndex[Slot] = PrefixIndex(trimmable=trimmable)
        self._free: list[Slot] = []
        self._made = 0
        self._reserved = 0
        self._edits = Edits()
        self.live: dict[Slot, Sequence] = {}
        """Sequences with a slot, in the order of their admission."""
        self._held: set[Sequence] = set()
        """Sequences that have room set aside, and no slot yet."""

    @property
    def parked(self) -> int:
        """Number of parked prefixes."""
        return len(self._index)

    @property
    def occupied(self) -> bool:
        """True when a sequence has a slot, or is to have one."""
        return bool(self.live or self._held)

    @property
    def alone(self) -> bool:
        """True while a sequence is to be computed by itself."""
        return any(sequence.alone for sequence in self.live.values())

    @property
    def live_positions(self) -> int:
        """Cache positions set aside for sequences with a slot, or about to have one."""
        slots = len(self.live) + len(self._held)
        return self._reserved + slots * self._limits.slot_positions

    @property
    def parked_positions(self) -> int:
        """Cache positions that parked prefixes take."""
        return int(self._index.weight)

    @property
    def settled(self) -> Iterator[Held[Slot]]:
        """Parked prefixes that are there before the forks of the next step."""
        made = self._edits.forked
        return (self._index[slot] for slot in self._index if slot not in made)

    @property
    def pending(self) -> bool:
        """True when edits wait for the next step."""
        return bool(self._edits)

    def take_edits(self) -> Edits:
        """The edits collected since the last call."""
        edits, self._edits = self._edits, Edits()
        return edits

    # Sequences

    def spared(self, sequence: Sequence) -> int:
        """How many positions of its feed a parked prefix holds."""
        match = self._find(sequence)
        return match.keep if match is not None else 0

    def holds(self, scope: str, wanted: bytes) -> int:
        """How many of these packed ids, from the first on, a parked prefix of the scope holds."""
        match = self._match(scope, wanted)
        return match.keep if match is not None else 0

    def admit(self, sequence: Sequence) -> bool:
        """Give the sequence a slot, at best one that holds the start of its prompt. False when
        there is no room: it must wait until a live sequence ends."""
        if self._crowded:
            return False
        match = self._find(sequence)
        needed = min(sequence.most, len(sequence.feed) + self._limits.kv_ahead)
        copy = self._make_room(needed + self._limits.slot_positions, match)
        if copy is None:
            return False
        self._index.clock += 1
        keep = match.keep if match is not None else 0
        self._reserve(sequence, needed)
        self._begin(sequence, self._place(match, needed, copy=copy), keep)
        return True

    def hold(self, sequence: Sequence, length: int) -> bool:
        """Set room aside for a sequence that is to go on from `length` restored positions, of
        which it may want only some. False when there is none."""
        if self._crowded:
            return False
        needed = max(length, min(sequence.most, len(sequence.feed) + self._limits.kv_ahead))
        if self._make_room(needed + self._limits.slot_positions, None) is None:
            return False
        self._held.add(sequence)
        self._reserve(sequence, needed)
        return True

    def let_go(self, sequence: Sequence) -> None:
        """The room that was held is not wanted after all."""
        self._held.remove(sequence)
        self._reserved -= sequence.reserved
        sequence.reserved = 0

    def restore(self, sequence: Sequence, entry: Entry, keep: int) -> None:
        """A sequence that holds room gets a slot with what is staged under `entry`, of which
        the first `keep` positions are its own."""
        self._held.remove(sequence)
        self._index.clock += 1
        slot = self._new_slot()
        self._edits.restore.append(Restore(slot, entry))
        self._begin(sequence, slot, keep)

    def grow(self, sequence: Sequence, length: int) -> bool:
        """Make sure that a live sequence may come to hold `length` positions. False when there
        is no room: it must wait until another one ends."""
        if length <= sequence.reserved:
            return True
        for wanted in (min(sequence.most, length + self._limits.kv_ahead), length):
            more = wanted - sequence.reserved
            if more > 0 and self._make_room(more, None) is not None:
                sequence.reserved += more
                self._reserved += more
                return True
        return False

    def snapshot(self, sequence: Sequence) -> None:
        """Copy what a live sequence holds, which is exactly what is planned so far, to a parked
        slot, if there is room for it beside all live ones."""
        if not sequence.request.cache:
            return
        ids = pack(sequence.known_ids)
        source, length = sequence.slot, sequence.planned_length
        scope = sequence.request.scope
        match = self._index.find(scope, ids)
        if source is None or (match is not None and match.whole and match.keep == length):
            return
        while len(self._index) >= self._limits.parked:
            if not self._evict_least(self._edits.forked):
                return
        cost = length + self._limits.slot_positions
        if self._make_room(cost, None) is None:
            return
        slot = self._new_slot()
        self._edits.fork.append(Fork(source, slot, length))
        self._index.add(slot, scope, ids, cost)

    def retire(self, sequence: Sequence) -> None:
        """The sequence has ended: keep what is known of its cache as a prefix, or drop it."""
        slot = sequence.slot
        if slot is None or self.live.pop(slot, None) is None:
            raise ValueError(f"request {sequence.request.id} has no slot")
        self._reserved -= sequence.reserved
        ids = sequence.known_ids
        exact = len(ids) == sequence.planned_length
        kept = sequence.request.cache and self._limits.parked > 0
        if not ids or not kept or not (exact or self._trimmable):
            self._drop(slot)
            return
        self._edits.park.append(Park(slot, len(ids)))
        cost = len(ids) + self._limits.slot_positions
        self._index.add(slot, sequence.request.scope, pack(ids), cost)
        while len(self._index) > self._limits.parked:
            self._evict_least(self._edits.forked)

    # Room

    @property
    def _crowded(self) -> bool:
        return len(self.live) + len(self._held) >= self._limits.sequences

    def _find(self, sequence: Sequence) -> Match[Slot] | None:
        if not sequence.request.cache:
            return None
        return self._match(sequence.request.scope, sequence.wanted)

    def _match(self, scope: str, wanted: bytes) -> Match[Slot] | None:
        match = self._index.find(scope, wanted)
        return match if match is not None and (match.keep >= FEW or match.large) else None

    def _make_room(self, needed: int, match: Match[Slot] | None) -> bool | None:
        """Evict the least valuable prefixes until `needed` positions fit. True when they fit
        beside the matching prefix, which is to be copied; False when they are to be had in its
        own slot, or nothing matches; None when there is no room, and then none is evicted."""
        pinned = self._edits.forked
        # In the prefix's own slot its positions are part of `needed`, or are trimmed.
        spared = match.held.weight if match is not None else 0
        others = pinned if match is None else pinned | {match.held.key}
        over = self.live_positions + self._edits.trimmed + needed - self._limits.kv_tokens
        stays = sum(self._index[slot].weight for slot in others if slot in self._index)
        if over + stays - spared > 0:
            return None
        copy = False
        # One that goes on in a prefix's slot can be trimmed back to it, or else the prefix is lost.
        if match is not None and not (match.whole and self._trimmable):
            # What is used as a whole goes last; a small part of it protects nothing.
            all_less = match.large and self._trimmable
            order = self._index.order
            less = [
                self._index[slot].weight
                for slot in self._index
                if slot not in others and (all_less or order(slot) < order(match.held.key))
            ]
            copy = over + self._index.weight - sum(less) <= 0
        while over + self._index.weight - (0 if copy else spared) > 0:
            self._evict_least(others)
        return copy

    def _reserve(self, sequence: Sequence, positions: int) -> None:
        sequence.reserved = positions
        self._reserved += positions

    def _place(self, match: Match[Slot] | None, needed: int, *, copy: bool) -> Slot:
        """The slot to use: a new one, or the one that holds the match."""
        if match is None:
            return self._new_slot()
        source = match.held.key
        if copy:
            slot = self._new_slot()
            self._edits.fork.append(Fork(source, slot, match.keep))
            if match.large:
                self._index.touch(source)
            return slot
        self._index.remove(source)
        self._edits.trimmed += max(0, match.held.length - needed)
        return source

    def _begin(self, sequence: Sequence, slot: Slot, keep: int) -> None:
        sequence.slot = slot
        sequence.planned_prefill = sequence.prefilled = keep
        if not sequence.fed:
            sequence.cached = keep
        self.live[slot] = sequence
        self._edits.admit.append(_admit(sequence, slot, keep))

    def _new_slot(self) -> Slot:
        if self._free:
            return heapq.heappop(self._free)
        self._made += 1
        return Slot(self._made - 1)

    def _evict_least(self, besides: Set[Slot]) -> bool:
        """Drop the least valuable prefix that is not in `besides`; False when there is none."""
        slot = self._index.least(besides)
        if slot is None:
            return False
        self._index.remove(slot)
        self._drop(slot)
        return True

    def _drop(self, slot: Slot) -> None:
        # Release comes before park in a step, so a park that is not sent yet is taken back.
        self._edits.park = [park for park in self._edits.park if park.slot != slot]
        self._edits.release.append(slot)
        heapq.heappush(self._free, slot)


def _admit(sequence: Sequence, slot: Slot, keep: int) -> Admit:
    request = sequence.request
    repetition = request.sampling.repetition_penalty != 1.0
    looked_at = request.sampling.penalized or request.grammar or sequence.draft
    return Admit(
        slot,
        keep,
        request.sampling,
        history=request.prompt if repetition or sequence.draft else (),
        generated=tuple(sequence.tokens) if looked_at else (),
        end_ids=tuple(sorted(request.end_ids)),
        end_from=sequence.prompt_tokens + request.min_tokens if request.min_tokens else 0,
        logprobs=request.logprobs,
        grammar=request.grammar,
        draft=sequence.draft,
    )
