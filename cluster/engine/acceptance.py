"""Whether a draft model pays for one sequence, how far it drafts, and what it must read first.

(Leviathan et al. 2023, arXiv:2211.17192: what a draft is worth depends on how often one of its ids
is accepted, given that those before it were.) Pure counts, known to every rank alike.
"""

from __future__ import annotations

from cluster.core.config import DRAFT_WINDOW

WEIGHT = 0.1
"""Of the newest judged id in the rate of accepted ones."""
BEGIN = 0.4
END = 0.3
"""The rate begins at the one, and drafting ends for a while below the other: three wrong ids in a
row do that, and no less."""
FIRST = 2
"""Ids drafted at first; twice as many after each draft that was right to the end."""
PAUSE = 64
"""Ids that come without drafts before it is tried again; twice as many each time that it was not
worth it."""
LEAST = 3
"""A sequence has so many ids before anything is drafted: a draft model is fed the last two
together, behind others."""


class Acceptance:
    """What became of the drafts for one sequence."""

    def __init__(self, length: int, most: int) -> None:
        """The sequence has `length` ids; at most `most` are drafted at once."""
        self._length = length
        self._most = most
        self._rate = BEGIN
        self._count = min(FIRST, most)
        self.active = True
        """Drafting pays, or is tried."""
        self._since = 0
        """Ids since it began or ended to be active."""
        self._pause = PAUSE // 2
        self._start = 0
        """Where the ids that the draft model has read begin."""
        self._drafted = 0
        """Length of the sequence behind its latest draft: the draft model has read all of it but,
        perhaps, the last two ids."""

    @property
    def wanted(self) -> bool:
        """Ids may be drafted next."""
        return self.active and self._length >= LEAST

    @property
    def behind(self) -> bool:
        """The draft model must read more than two ids first."""
        _, keep = self.window()
        return self._drafted < self._length or keep == 0

    def count(self, most: int) -> int:
        """How many ids to draft, of at most `most`."""
        return min(most, self._count) if self.wanted else 0

    def window(self) -> tuple[int, int]:
        """The place in the sequence from which on the draft model reads it, and how many ids from
        there on it has read already."""
        lost = self._length - self._drafted > DRAFT_WINDOW
        if lost or self._length - self._start > 2 * DRAFT_WINDOW:
            return max(0, self._length - DRAFT_WINDOW), 0
        return self._start, max(0, self._drafted - 2 - self._start)

    def note(self, ids: int, drafted: int) -> None:
        """`ids` ids came next; the draft model had drafted `drafted` for them, of which all but
        the last one of `ids` were right."""
        if drafted:
            self._start, _ = self.window()
            self._judge(ids - 1, drafted)
        self._length += ids
        self._since += ids
        if drafted:
            self._drafted = self._length
        if self.active and self._rate < END:
            # What lasted as long as the pause before it was worth it.
            self._pause = PAUSE if self._since >= self._pause else 2 * self._pause
            self.active, self._since = False, 0
        elif not self.active and self._since >= self._pause:
            self.active, self._since = True, 0
            self._rate, self._count = BEGIN, min(FIRST, self._most)

    def _judge(self, right: int, drafted: int) -> None:
        """Nothing is known of the ids behind the first wrong one."""
        for _ in range(right):
            self._rate += WEIGHT * (1 - self._rate)
        if right < drafted:
            self._rate -= WEIGHT * self._rate
        self._count = min(self._most, 2 * self._count) if right == drafted else right + 1
