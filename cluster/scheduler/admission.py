"""Who waits for a slot, and in what order they get one."""

from __future__ import annotations

from collections import deque

from cluster.scheduler.sequence import Sequence
from cluster.scheduler.shelf import Shelf, Staging
from cluster.scheduler.slots import SlotPool


class Admission:
    """First come, first served; only who waits for a file lets others pass. One that may be what
    crashes engines is computed alone, as soon as nobody else is."""

    def __init__(self, pool: SlotPool, shelf: Shelf) -> None:
        self._pool = pool
        self._shelf = shelf
        self._waiting: deque[Sequence] = deque()
        self._staged: dict[Sequence, Staging] = {}
        """Those of them whose prefix is being read from disk; room is held for them."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """It comes last."""
        self._waiting.append(sequence)

    def add_first(self, sequence: Sequence) -> None:
        """It had to give up its slot: the next one is its own."""
        self._waiting.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It is over before it began."""
        self._waiting.remove(sequence)
        if sequence in self._staged:
            self._give_up(sequence)

    def admit(self, now: float) -> list[Sequence]:
        """Give slots to those whose turn it is, and say to whom."""
        admitted = [sequence for sequence in tuple(self._staged) if self._restore(sequence, now)]
        for sequence in tuple(self._waiting):
            if sequence in admitted or sequence in self._staged:
                continue
            if self._pool.alone or (sequence.alone and self._pool.occupied):
                break
            if self._stage(sequence, now):
                continue
            if not self._pool.admit(sequence):
                break
            admitted.append(sequence)
        for sequence in admitted:
            self._waiting.remove(sequence)
            if sequence.begun is None:
                sequence.begun = now
        return admitted

    def _restore(self, sequence: Sequence, now: float) -> bool:
        """True when it goes on from what was read. When that can't be, or takes too long, it is
        one of those who wait for nothing but a slot."""
        staging = self._staged[sequence]
        if staging.ready:
            del self._staged[sequence]
            self._pool.restore(sequence, staging.entry, staging.keep)
            self._shelf.restored(staging)
            return True
        if staging.failed or now >= staging.deadline:
            self._give_up(sequence)
        return False

    def _stage(self, sequence: Sequence, now: float) -> bool:
        """True when it waits for a file that spares more than memory does."""
        if not len(self._shelf) or not sequence.request.cache:
            return False
        scope, spared = sequence.request.scope, self._pool.spared(sequence)
        found = self._shelf.match(scope, sequence.wanted, spared)
        if found is None:
            return False
        entry, keep, length = found
        if self._shelf.busy(entry):
            return True
        if not self._shelf.answers(entry) or not self._pool.hold(sequence, length):
            return False
        self._staged[sequence] = self._shelf.stage(entry, keep, now)
        return True

    def _give_up(self, sequence: Sequence) -> None:
        self._shelf.unstage(self._staged.pop(sequence))
        self._pool.let_go(sequence)
