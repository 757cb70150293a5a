"""Which machines make the next group: as many ranks as can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from cluster.core.errors import NodeUnreachable, SetupError
from cluster.membership.roster import Node

FEW = 8
"""Machines up to which all groups of them are tried."""

T = TypeVar("T")


def choose(nodes: Sequence[Node], fit: Callable[[Sequence[Node]], T]) -> tuple[list[Node], T]:
    """The first group, of those with most ranks, that `fit` takes: its machines in their order,
    and what `fit` says of it.

    `fit` raises a SetupError for a group that can't serve the model. When no group can, the
    error of the largest one is raised, which names what is missing.
    """
    refusal: SetupError | None = None
    for group in groups(nodes):
        try:
            return list(group), fit(group)
        except SetupError as error:
            refusal = refusal or error
    raise refusal or NodeUnreachable("no machine is here")


def groups(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """Groups by their ranks, most first; among equals those of the first machines first. Of many
    machines, only the first so many."""
    if len(nodes) > FEW:
        yield from (nodes[:count] for count in range(len(nodes), 0, -1))
        return
    every = [group for count in range(1, len(nodes) + 1) for group in combinations(nodes, count)]
    yield from sorted(every, key=lambda group: -sum(node.ranks for node in group))
