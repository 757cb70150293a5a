"""What of the prefix cache is on disk: what to save, what to read back, what to delete.

The pure half of the disk tier (cluster/core/shelf.py): the ranks' files follow these orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from cluster.core.ids import Entry, Slot
from cluster.core.plan import Save
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.scheduler.prefix import ITEM, Held, PrefixIndex, pack, unpack

LEAST = 128
"""Positions that a save or a restore must gain to be worth a file."""
LEAST_PART = 16
"""A prefix is saved again once this part of it is not on disk: else each turn of a long
conversation would write all of it."""
STAGE_SECONDS = 30.0
"""A request waits no longer than this for a file to be read."""


def entry_name(scope: str, ids: bytes) -> Entry:
    """The name of what holds these packed ids: 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    digest.update(len(scope.encode()).to_bytes(8, "little") + scope.encode())
    digest.update(ids)
    return Entry(digest.hexdigest())


@dataclass(slots=True)
class Saving:
    """The save under way. It has no deadline: nobody waits for it but the next save, and a disk
    that does not answer is given no more."""

    entry: Entry
    scope: str
    ids: bytes


@dataclass(slots=True)
class Staging:
    """An entry that is being read for one sequence."""

    entry: Entry
    keep: int
    """How many of its positions are wanted."""
    deadline: float
    ready: bool = False
    failed: bool = False


class Shelf:
    """Plans the files of all ranks, which are alike but for their bytes."""

    def __init__(self, shelved: Iterable[Shelved], disk_bytes: int, *, trimmable: bool) -> None:
        self._trimmable = trimmable
        self._disk_bytes = disk_bytes
        self._index: PrefixIndex[Entry] = PrefixIndex(trimmable=trimmable)
        self._orders: list[ShelfOrder] = []
        self._saving: Saving | None = None
        self._seen: dict[Slot, bytes] = {}
        """Parked slots that need no save, and what they held when that was found out."""
        self._staging: dict[Entry, Staging] = {}
        self._restoring: set[Entry] = set()
        """Staged, and taken by a step that is not done on every rank: orders go beside the
        steps, and one for the same entry might overtake it."""
        self._unanswered: set[Entry] = set()
        """Stage orders without an answer; until it comes, no other is given for the same."""
        self._halved = False
        self._too_long: int | None = None
        """Positions whose file is larger than all files together may be."""
        self.full = False
        """The disk has no room even for what is left after evicting: nothing is saved."""
        if not disk_bytes:
            return
        for each in sorted(shelved, key=lambda each: (each.used, each.entry)):
            self._index.clock += 1
            self._index.add(each.entry, each.scope, pack(each.ids), max(1, each.size))
        self._shrink(disk_bytes)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def size(self) -> int:
        """Bytes of all entries, on the rank whose files are largest."""
        return int(self._index.weight)

    @property
    def waiting(self) -> bool:
        """True while a request waits for a file."""
        return bool(self._staging)

    def take_orders(self) -> list[ShelfOrder]:
        """The orders collected since the last call."""
        orders, self._orders = self._orders, []
        return orders

    def news(self, news: ShelfNews) -> None:
        """All ranks have saved or staged an entry, or one of them could not."""
        self._shrink(self._disk_bytes)
        if news.verb is Verb.SAVE and self._saving and self._saving.entry == news.entry:
            saving, self._saving = self._saving, None
            if news.ok:
                self._halved = False
                self._saved(saving, news.size)
            else:
                self._order(Verb.DELETE, news.entry)
                if news.full:
                    self._make_way(saving)
        elif news.verb is Verb.STAGE:
            self._unanswered.discard(news.entry)
            staging = self._staging.get(news.entry)
            if staging is not None:
                staging.ready, staging.failed = news.ok, not news.ok

    # Saving

    def save(self, parked: Iterable[Held[Slot]]) -> Save | None:
        """The next save, of one of these prefixes; None when none is due."""
        if self._saving is not None or self.full or not self._disk_bytes:
            return None
        for held in parked:
            if self._seen.get(held.key) is held.ids:
                continue
            self._seen[held.key] = held.ids
            if self._gains(held):
                entry = entry_name(held.scope, held.ids)
                self._saving = Saving(entry, held.scope, held.ids)
                return Save(held.key, entry, held.scope, unpack(held.ids))
        return None

    def _gains(self, held: Held[Slot]) -> bool:
        if self._too_long is not None and held.length >= self._too_long:
            return False
        match = self._index.find(held.scope, held.ids)
        gained = held.length - (match.keep if match is not None else 0)
        return gained >= max(LEAST, held.length // LEAST_PART)

    def _saved(self, saving: Saving, size: int) -> None:
        if saving.entry in self._index:
            return
        if size > self._disk_bytes:
            self._too_long = len(saving.ids) // ITEM
            self._order(Verb.DELETE, saving.entry)
            return
        self._index.clock += 1
        self._index.add(saving.entry, saving.scope, saving.ids, max(1, size))
        if self._trimmable:
            for start in self._index.starts(saving.entry):
                if not self.busy(start):
                    self._delete(start)
        self._shrink(self._disk_bytes)

    def _make_way(self, saving: Saving) -> None:
        """There was no space for a file: evict half of all, and let it be tried once more."""
        if self._halved or not len(self._index):
            self.full = True
            return
        self._halved = True
        self._shrink(self.size // 2)
        for slot in [slot for slot, ids in self._seen.items() if ids is saving.ids]:
            del self._seen[slot]

    def _shrink(self, most: float) -> None:
        while self._index.weight > most:
            entry = self._index.least(self._restoring | self._staging.keys())
            if entry is None:
                return  # what is being read goes at the next news
            self._delete(entry)

    def _delete(self, entry: Entry) -> None:
        self._index.remove(entry)
        self._order(Verb.DELETE, entry)

    # Staging

    def match(self, scope: str, wanted: bytes, spared: int) -> tuple[Entry, int, int] | None:
        """The entry that spares enough of these packed ids beyond `spared` to be read, how many
        of its positions are wanted, and how many it has."""
        match = self._index.find(scope, wanted)
        if match is None or match.keep - spared < LEAST:
            return None
        return match.held.key, match.keep, match.held.length

    def busy(self, entry: Entry) -> bool:
        """True while it is being read for somebody, so that another has to wait."""
        return entry in self._staging or entry in self._restoring

    def answers(self, entry: Entry) -> bool:
        """False while an earlier order to read it has had no answer, though nobody waits."""
        return entry not in self._unanswered

    def stage(self, entry: Entry, keep: int, now: float) -> Staging:
        """Have an entry read that is neither busy nor owes an answer."""
        staging = Staging(entry, keep, now + STAGE_SECONDS)
        self._staging[entry] = staging
        self._unanswered.add(entry)
        self._order(Verb.STAGE, entry)
        return staging

    def restored(self, staging: Staging) -> None:
        """A step has taken what was staged."""
        del self._staging[staging.entry]
        self._restoring.add(staging.entry)
        self._index.clock += 1
        self._index.touch(staging.entry)

    def landed(self, entries: Iterable[Entry]) -> None:
        """The step that has restored them is done on every rank."""
        self._restoring.difference_update(entries)

    def unstage(self, staging: Staging) -> None:
        """It will not be restored. An entry that could not be read is forgotten."""
        del self._staging[staging.entry]
        self._order(Verb.UNSTAGE, staging.entry)
        if staging.failed:
            self._delete(staging.entry)
        self._shrink(self._disk_bytes)

    def _order(self, verb: Verb, entry: Entry) -> None:
        self._orders.append(ShelfOrder(verb, entry))
