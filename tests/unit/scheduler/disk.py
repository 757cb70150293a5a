"""The files of the reference engine: what is saved, staged and deleted, strictly in order."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.core.ids import Entry
from cluster.core.plan import Save
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb


class PlanBroken(AssertionError):
    """Raised when a step asks for what no rank could do, or skips or repeats another."""


def require(condition: bool, message: str) -> None:
    """Raise PlanBroken unless `condition`."""
    if not condition:
        raise PlanBroken(message)


class Disk:
    """Answers when it is told to: ok, or not."""

    def __init__(self, shelved: Iterable[Shelved] = (), space: int = 1 << 40) -> None:
        self.files = {each.entry: each for each in shelved}
        self.space = space
        """Bytes; a position takes one."""
        self.staged: set[Entry] = set()
        self.pending: list[tuple[Verb, Entry]] = []
        """What has no answer yet, oldest first."""
        self._abandoned: list[Entry] = []
        """Being read, though nobody wants it any more."""
        self._saves: dict[Entry, Save] = {}
        self.saves = 0
        """Ever begun."""

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files.values())

    def save(self, save: Save) -> None:
        require(save.entry not in self.files, f"{save.entry} is saved twice")
        require(len(save.entry) == 32, f"{save.entry} is not 32 digits")
        require(not any(verb is Verb.SAVE for verb, _ in self.pending), "two saves at a time")
        self._saves[save.entry] = save
        self.pending.append((Verb.SAVE, save.entry))
        self.saves += 1

    def take(self, entry: Entry) -> tuple[int, ...]:
        """The ids that are restored."""
        require(entry in self.staged, f"restore of {entry}, which is not staged")
        self.staged.remove(entry)
        return self.files[entry].ids

    def order(self, order: ShelfOrder) -> None:
        verb, entry = order.verb, order.entry
        if verb is Verb.STAGE:
            require(entry in self.files, f"{entry} is staged, but is not there")
            require((verb, entry) not in self.pending, f"{entry} is staged twice")
            require(entry not in self.staged, f"{entry} is staged already")
            self.pending.append((verb, entry))
        elif verb is Verb.UNSTAGE:
            reading = (Verb.STAGE, entry) in self.pending
            if reading:
                self._abandoned.append(entry)
            self.staged.discard(entry)
        else:
            require(verb is Verb.DELETE, f"{verb} is never ordered")
            require(entry not in self.staged, f"{entry} is deleted while staged")
            self.files.pop(entry, None)
            self._saves.pop(entry, None)

    def answer(self, place: int = 0, *, ok: bool = True) -> ShelfNews:
        """What has become of the oldest, or another, of what is pending."""
        verb, entry = self.pending.pop(place)
        if verb is Verb.STAGE:
            abandoned = entry in self._abandoned
            if abandoned:
                self._abandoned.remove(entry)
            ok = ok and entry in self.files
            if ok and not abandoned:
                self.staged.add(entry)
            return ShelfNews(verb, entry, ok)
        save = self._saves.pop(entry, None)
        if save is None or not ok:
            return ShelfNews(verb, entry, ok=False, reason="broken")
        if self.size + len(save.ids) > self.space:
            return ShelfNews(verb, entry, ok=False, full=True, reason="full")
        self.files[entry] = Shelved(entry, save.scope, save.ids, len(save.ids))
        return ShelfNews(verb, entry, ok=True, size=len(save.ids))
