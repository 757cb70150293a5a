"""How machines are dealt to groups of one model that run side by side, so that none uses a rank's
place that another has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.membership.roster import Node


def deal(nodes: Sequence[Node], taken: Iterable[Mapping[str, int]], groups: int) -> list[Node]:
    """The places of one of `groups` groups, as nodes with as many ranks as it may run there.

    `taken` has what each other group runs on, ranks by node id; empty for one that has no place
    yet, for which as much is left as can be. No group gets more than an even part of all, rounded
    up. Machines are dealt whole as far as that goes, the first ones first.
    """
    others = list(taken)
    used = [sum(other.get(node.id, 0) for other in others) for node in nodes]
    free = [max(0, node.ranks - ranks) for node, ranks in zip(nodes, used, strict=True)]
    without = 1 + sum(not other for other in others)
    even = -(-sum(node.ranks for node in nodes) // groups) if groups else 0
    left = min(even, max(1, -(-sum(free) // without)))
    dealt: list[Node] = []
    for node, ranks in zip(nodes, free, strict=True):
        if count := min(left, ranks):
            dealt.append(node if count == node.ranks else replace(node, ranks=count))
            left -= count
    return dealt
