"""Prompt lookup: what follows is drafted from what followed the same few ids before.

(Saxena 2023, "Prompt Lookup Decoding"; verified as in Leviathan et al. 2023, arXiv:2211.17192,
with equality in place of rejection, so that the text is the same as without drafts.)

A draft is a function of ids that all ranks have agreed on. Whether drafting pays is learned
without drafting: each new id is held against what would have been drafted for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GRAM = 3
"""So many ids must be the same."""
WEIGHT = 0.25
"""Of the newest id in the rate of right guesses."""
BEGIN = 0.55
END = 0.25
"""Drafts begin at this rate (three right guesses in a row) and end at this one."""
FIRST = 4
"""Ids drafted at first; as many again after each draft that was right to the end."""

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Drafter:
    """The ids of one sequence, and what may follow them."""

    def __init__(self, ids: Sequence[int], most: int) -> None:
        """`ids` are the prompt and what was generated of the answer before; at most `most` ids
        are drafted at once."""
        self._most = most
        self.ids = list(ids)
        """All of them so far; for others to read."""
        self._known = len(self.ids)
        self._hashes = _hashes(np.array(self.ids, dtype=np.uint64))
        self._latest: dict[tuple[int, ...], int] = {}
        """Where the ids after each gram of the answer begin."""
        self._rate = 0.0
        self._length = min(FIRST, most)
        self._place: int | None = None
        """Where the next id is copied from; None when nothing is found."""
        self.active = False
        """Drafting pays."""
        self._find()

    def draft(self, most: int) -> tuple[int, ...]:
        """At most `most` ids that may come next; empty when not active, or nothing is found."""
        if not self.active or self._place is None:
            return ()
        # What is copied may reach into the copy: a text that repeats itself goes on so.
        period = len(self.ids) - self._place
        count = min(most, self._length)
        return tuple(self.ids[self._place + i % period] for i in range(count))

    def note(self, ids: Sequence[int], drafted: int) -> None:
        """`ids` came next; `drafted` ids had been drafted for them, of which all that were
        right are in `ids`, and one that was not drafted."""
        if drafted:
            right = len(ids) - 1 == drafted
            self._length = min(self._most, 2 * self._length) if right else max(1, len(ids))
        for token in ids:
            self._add(token)

    def _add(self, token: int) -> None:
        hit = self._place is not None and self.ids[self._place] == token
        self._rate += WEIGHT * (hit - self._rate)
        self.active = self._rate >= (END if self.active else BEGIN)
        self.ids.append(token)
        end = len(self.ids)
        # The gram that ends before this id is followed by it.
        if end > max(GRAM, self._known):
            self._latest[tuple(self.ids[end - GRAM - 1 : end - 1])] = end - 1
        if hit and self._place is not None:
            self._place += 1  # the copy goes on
        else:
            self._find()

    def _find(self) -> None:
        """Where the last gram occurred before, the latest place first."""
        self._place = None
        gram = tuple(self.ids[-GRAM:])
        if len(gram) < GRAM:
            return
        found = self._latest.get(gram)
        if found is None:
            found = self._in_prompt(gram)
        self._place = found

    def _in_prompt(self, gram: tuple[int, ...]) -> int | None:
        """The latest place in the first ids after `gram`, itself followed by an id."""
        wanted = _hashes(np.array(gram, dtype=np.uint64))[0]
        for start in np.flatnonzero(self._hashes == wanted)[::-1].tolist():
            if tuple(self.ids[start : start + GRAM]) == gram and start + GRAM < len(self.ids):
                return int(start) + GRAM
        return None


def _hashes(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One number for each gram; equal grams have equal numbers."""
    if len(ids) < GRAM:
        return np.zeros(0, dtype=np.uint64)
    first, second, third = (ids[i : len(ids) - GRAM + 1 + i] for i in range(GRAM))
    return (first * _A + second) * _B + third
