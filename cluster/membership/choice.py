"""Which machines make the next group: as many ranks as can be had, and of those the best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

from cluster.core.errors import NodeUnreachable, SetupError
from cluster.membership.roster import Node

FEW = 8
"""Machines up to which all groups of them are tried."""

T = TypeVar("T")


class Merit(NamedTuple):
    """How good a group is."""

    makeshift: bool = False
    """To be taken only where there is no other group, whatever its size."""
    worth: tuple[float, ...] = ()
    """Beside groups with as many ranks: the larger the better."""


def choose(
    nodes: Sequence[Node],
    fit: Callable[[Sequence[Node]], T],
    merit: Callable[[T], Merit] = lambda _: Merit(),
) -> tuple[list[Node], T]:
    """The best group, of those with most ranks, that `fit` takes: its machines in their order,
    and what `fit` says of it, of which `merit` says how good it is; of equal ones the first.

    `fit` raises a SetupError for a group that can't serve the model. When no group can, the
    error of the largest one is raised, which names what is missing.
    """
    refusal: SetupError | None = None
    makeshift: tuple[list[Node], T] | None = None
    for groups in _by_size(nodes):
        found: list[tuple[list[Node], T]] = []
        for group in groups:
            try:
                found.append((list(group), fit(group)))
            except SetupError as error:
                refusal = refusal or error
        good = [each for each in found if not merit(each[1]).makeshift]
        if good:
            return max(good, key=lambda each: merit(each[1]).worth)
        if found and makeshift is None:
            makeshift = max(found, key=lambda each: merit(each[1]).worth)
    if makeshift is not None:
        return makeshift
    raise refusal or NodeUnreachable("no machine is here")


def _by_size(nodes: Sequence[Node]) -> Iterator[list[Sequence[Node]]]:
    """Groups with equally many ranks, most first; among equals those of the first machines first.
    Of many machines, only the first so many."""
    if len(nodes) > FEW:
        yield from ([nodes[:count]] for count in range(len(nodes), 0, -1))
        return
    sized: defaultdict[int, list[Sequence[Node]]] = defaultdict(list)
    for count in range(1, len(nodes) + 1):
        for group in combinations(nodes, count):
            sized[sum(node.ranks for node in group)].append(group)
    yield from (sized[size] for size in sorted(sized, reverse=True))
