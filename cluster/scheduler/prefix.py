"""Which parked slots hold which tokens: a prompt that begins alike need not be computed twice."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Ids
from collections.abc import Set
from dataclasses import dataclass

from cluster.core.ids import Slot

ITEM = array("I").itemsize


@dataclass(frozen=True, slots=True)
class Parked:
    """A slot without a sequence, kept for its cache."""

    slot: Slot
    scope: str
    ids: bytes
    """The token ids of its positions, packed, so that comparing is fast."""

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self.ids) // ITEM


@dataclass(frozen=True, slots=True)
class Match:
    """A parked slot whose first `keep` positions are the prompt's."""

    parked: Parked
    keep: int

    @property
    def whole(self) -> bool:
        """True when nothing of the parked prefix would be lost by going on in its slot."""
        return self.keep == self.parked.length


class PrefixIndex:
    """Parked slots, least recently used first; at most `limit` of them (the owner evicts)."""

    def __init__(self, *, trimmable: bool) -> None:
        self._trimmable = trimmable
        self._parked: OrderedDict[Slot, Parked] = OrderedDict()
        self.tokens = 0
        """Positions held by all parked slots together."""

    def __len__(self) -> int:
        return len(self._parked)

    def add(self, slot: Slot, scope: str, ids: Ids[int]) -> None:
        """The slot now holds exactly these ids and no sequence."""
        parked = Parked(slot, scope, array("I", ids).tobytes())
        self._parked[slot] = parked
        self.tokens += parked.length

    def remove(self, slot: Slot) -> Parked:
        """Forget a slot (released, or taken by a sequence). Raises KeyError when not parked."""
        parked = self._parked.pop(slot)
        self.tokens -= parked.length
        return parked

    def oldest(self, besides: Set[Slot]) -> Slot | None:
        """The least recently used slot that is not in `besides`; None when there is none."""
        return next((slot for slot in self._parked if slot not in besides), None)

    def held(self, slots: Set[Slot]) -> int:
        """Positions held by those of `slots` that are parked."""
        return sum(self._parked[slot].length for slot in slots if slot in self._parked)

    def touch(self, slot: Slot) -> None:
        """The slot was just of use."""
        self._parked.move_to_end(slot)

    def find(self, scope: str, prompt: Ids[int]) -> Match | None:
        """The parked slot of this scope that spares the most of `prompt`.

        At least one token of the prompt is left to compute, since its logits are needed. A
        cache that can't be trimmed is of use only when all of it is wanted.
        """
        wanted = array("I", prompt[:-1]).tobytes()
        best: Match | None = None
        for parked in self._parked.values():
            if parked.scope != scope:
                continue
            keep = common_prefix(parked.ids, wanted)
            if not self._trimmable and keep < parked.length:
                continue
            if keep > (best.keep if best else 0):
                best = Match(parked, keep)
        return best


def common_prefix(one: bytes, other: bytes) -> int:
    """Number of packed ids that two packed sequences have in common at their start."""
    low, high = 0, min(len(one), len(other)) // ITEM
    if one[: high * ITEM] == other[: high * ITEM]:
        return high
    while low < high - 1:  # the first `low` ids are equal, the first `high` are not
        middle = (low + high) // 2
        if one[low * ITEM : middle * ITEM] == other[low * ITEM : middle * ITEM]:
            low = middle
        else:
            high = middle
    return low
