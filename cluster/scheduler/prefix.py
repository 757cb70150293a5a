"""Which caches hold which tokens: a prompt that begins alike need not be computed twice.

A radix tree per scope, its edges packed ids; the same for slots in memory and files on disk.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from math import exp2
from typing import Generic, TypeVar

from cluster.core.ids import Entry, Slot

ITEM = array("I").itemsize
HALF_LIFE = 32
"""Admissions after which an entry that nobody used is worth half."""

Key = TypeVar("Key", Slot, Entry)


def pack(ids: Ids[int]) -> bytes:
    """Token ids, so that comparing them is fast."""
    return array("I", ids).tobytes()


def unpack(packed: bytes) -> tuple[int, ...]:
    """The ids again."""
    return tuple(memoryview(packed).cast("I"))


@dataclass(slots=True)
class Node(Generic[Key]):
    """A place in the tree: all that lies below begins with the ids on the way to it."""

    edge: bytes = b""
    """Packed ids between the node above and this one."""
    above: Node[Key] | None = None
    below: dict[bytes, Node[Key]] = field(default_factory=dict)
    """By the first id of the edge."""
    keys: list[Key] = field(default_factory=list)
    """Whose ids end here."""

    def walk(self) -> Iterator[Node[Key]]:
        """This node and all below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.below.values())


@dataclass(slots=True)
class Held(Generic[Key]):
    """What one key holds."""

    key: Key
    scope: str
    ids: bytes
    """The token ids of its positions, packed."""
    weight: float
    """What it takes: positions in memory, bytes on disk."""
    node: Node[Key]
    used: int
    """When it was last of use, in admissions."""

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self.ids) // ITEM


@dataclass(frozen=True, slots=True)
class Match(Generic[Key]):
    """One whose first `keep` positions are the prompt's."""

    held: Held[Key]
    keep: int

    @property
    def whole(self) -> bool:
        """True when nothing of what is held would be lost by going on in it."""
        return self.keep == self.held.length

    @property
    def large(self) -> bool:
        """True when it is at least half of what is held: it was of use as a whole."""
        return 2 * self.keep >= self.held.length


class PrefixIndex(Generic[Key]):
    """Finds the longest common start, and tells what is worth least (the owner evicts)."""

    def __init__(self, *, trimmable: bool) -> None:
        self._trimmable = trimmable
        self._roots: dict[str, Node[Key]] = {}
        self._held: dict[Key, Held[Key]] = {}
        self.clock = 0
        """Admissions so far: what is worth how much is no matter of seconds, so that the plan
        stays a function of what has happened."""
        self.weight = 0.0
        """Of all together."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def __getitem__(self, key: Key) -> Held[Key]:
        return self._held[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)

    def add(self, key: Key, scope: str, ids: bytes, weight: float) -> None:
        """The key now holds exactly these packed ids. Raises ValueError when it holds any."""
        if key in self._held:
            raise ValueError(f"{key} is in the index")
        node = self._roots.setdefault(scope, Node())
        at = 0
        while at < len(ids):
            node, common = self._step(node, ids, at)
            at += common
        node.keys.append(key)
        self._held[key] = Held(key, scope, ids, weight, node, self.clock)
        self.weight += weight

    def remove(self, key: Key) -> Held[Key]:
        """Forget a key. Raises KeyError when it is not there."""
        held = self._held.pop(key)
        self.weight -= held.weight
        held.node.keys.remove(key)
        node = held.node
        if not node.keys and not node.below and node.above is not None:
            del node.above.below[node.edge[:ITEM]]
            node = node.above
        self._join(node)
        if node.above is None and not node.below and not node.keys:
            del self._roots[held.scope]
        return held

    def touch(self, key: Key) -> None:
        """The key was just of use."""
        self._held[key].used = self.clock

    def find(self, scope: str, wanted: bytes) -> Match[Key] | None:
        """The one of this scope that has the longest start in common with these packed ids.

        A cache that can't be trimmed is of use only when all of it is wanted.
        """
        node = self._roots.get(scope)
        at = 0
        best: Match[Key] | None = None
        while node is not None:
            if node.keys and at:
                best = Match(self._held[node.keys[0]], at // ITEM)
            child = node.below.get(wanted[at : at + ITEM])
            if child is None:
                break
            common = common_prefix(child.edge, wanted[at : at + len(child.edge)]) * ITEM
            node, at = child, at + common
            if common < len(child.edge):
                break
        if not self._trimmable or node is None or at == 0:
            return best
        if best is not None and best.keep * ITEM == at:
            return best
        # All below have as much in common: of these the one that would be missed least.
        keys = [key for each in node.walk() for key in each.keys]
        return Match(self._held[min(keys, key=self.order)], at // ITEM)

    def starts(self, key: Key) -> list[Key]:
        """Those whose ids are a start of this one's, or the same."""
        found: list[Key] = []
        node: Node[Key] | None = self._held[key].node
        while node is not None:
            found += [other for other in node.keys if other != key]
            node = node.above
        return found

    def value(self, key: Key) -> float:
        """Tokens that it spares, per weight, halved with each HALF_LIFE of not being used. Only
        what no other holds is spared by it."""
        held = self._held[key]
        age = self.clock - held.used
        return self._spared(held) / held.weight * exp2(-age / HALF_LIFE)

    def least(self, besides: Collection[Key] = ()) -> Key | None:
        """The least valuable key that is not in `besides`; None when there is none."""
        return min((k for k in self._held if k not in besides), key=self.order, default=None)

    def order(self, key: Key) -> tuple[float, int, Key]:
        """Least valuable first, of those the one that was not used for longest."""
        return self.value(key), self._held[key].used, key

    def _spared(self, held: Held[Key]) -> int:
        node = held.node
        if len(node.keys) > 1 or (self._trimmable and node.below):
            return 0
        spared = len(node.edge)
        # Without trimming, only one that ends on the way to this one can stand in for it.
        while not self._trimmable and node.above is not None and not node.above.keys:
            node = node.above
            spared += len(node.edge)
        return spared // ITEM

    def _step(self, node: Node[Key], ids: bytes, at: int) -> tuple[Node[Key], int]:
        """The node below `node` on the way along ids[at:], made if need be, and how many bytes
        it is further on."""
        child = node.below.get(ids[at : at + ITEM])
        if child is None:
            child = Node(ids[at:], node)
            node.below[child.edge[:ITEM]] = child
            return child, len(child.edge)
        common = common_prefix(child.edge, ids[at : at + len(child.edge)]) * ITEM
        if common == len(child.edge):
            return child, common
        middle = Node(child.edge[:common], node)
        node.below[middle.edge[:ITEM]] = middle
        child.edge, child.above = child.edge[common:], middle
        middle.below[child.edge[:ITEM]] = child
        return middle, common

    def _join(self, node: Node[Key]) -> None:
        """Two edges become one where nothing ends or branches off between them any more."""
        if node.above is None or node.keys or len(node.below) != 1:
            return
        (child,) = node.below.values()
        child.edge, child.above = node.edge + child.edge, node.above
        node.above.below[child.edge[:ITEM]] = child


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
