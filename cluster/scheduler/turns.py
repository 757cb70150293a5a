"""Whose prompt gets the next chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from cluster.scheduler.sequence import Sequence


class PrefillTurns:
    """Newcomers first, so that a short prompt need not wait behind every long one; but a step
    that one of them has led is followed by one that an old prompt leads, so that no stream of
    newcomers can starve it. The old ones take turns."""

    def __init__(self) -> None:
        self._new: deque[Sequence] = deque()
        self._begun: deque[Sequence] = deque()
        self._new_led = False

    def __len__(self) -> int:
        return len(self._new) + len(self._begun)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """These have got a slot, and no chunk yet."""
        self._new.extend(sequences)

    def discard(self, sequence: Sequence) -> None:
        """It wants no more, if it ever did."""
        for line in (self._new, self._begun):
            if sequence in line:
                line.remove(sequence)

    def order(self) -> list[Sequence]:
        """All that want prefill, in the order of their turns at the next step."""
        if self._new_led and self._begun:
            return [*self._begun, *self._new]
        return [*self._new, *self._begun]

    def took(self, sequence: Sequence, *, led: bool) -> None:
        """A chunk of its prompt is planned, and was the first of its step if `led`."""
        if led:
            self._new_led = sequence in self._new
        self.discard(sequence)
        if sequence.wants_prefill:
            self._begun.append(sequence)
