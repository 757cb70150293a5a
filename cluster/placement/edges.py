"""Which links a group's data plane takes: the order of the ring, its addresses, or RDMA.

In MLX's ring every rank listens on its own listed address and connects to the next rank's, from
whatever source the system picks; it takes IPv4 only. So each edge is one link of the table, from a
node to the next, and its target is where that next node listens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.core.errors import NodeUnreachable
from cluster.core.link import Link, LinkTable

KINDS = ("loopback", "thunderbolt", "ethernet", "wifi", "other")
"""From the best to the least; an unknown kind counts as the last."""

MOST_JACCL = 8
"""Ranks in a mesh of jaccl."""

_MOST_STEPS = 20_000
"""Of the search for an order: all orders of 8 nodes take 13,700; of more, the best found counts."""

_NAMED = 4
"""Pairs that an error names."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Nodes in rank order, and the link from each to the next, from the last to the first."""

    order: tuple[int, ...]
    edges: tuple[Link, ...]
    """edges[k] leads from order[k] to order[k + 1]; empty for one node."""


def kind_rank(kind: str) -> int:
    """0 for the best kind of link."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS) - 1


def best_link(links: Sequence[Link]) -> Link | None:
    """The usable link of the best kind, and of those the one with the highest throughput."""
    usable = [link for link in links if not link.error]
    return min(
        usable,
        key=lambda link: (
            kind_rank(link.kind), -link.bytes_per_second, link.round_trip, link.target,
        ),
        default=None,
    )  # fmt: skip


def choose_ring(names: Sequence[str], table: LinkTable) -> Ring:
    """The ring over all nodes whose worst link is best; of equal ones the first in order.

    Node 0 stays first. Throughput counts in powers of two only, so that noise does not reorder
    the ranks of a cluster: the prefixes that a rank keeps on disk are of its shard. `names` are
    the nodes' for the error. Raises NodeUnreachable when there is no such ring, which names the
    pairs that can't reach each other.
    """
    links = {pair: link for pair, found in table.items() if (link := best_link(found)) is not None}
    costs = {pair: _cost(link) for pair, link in links.items()}
    best: tuple[tuple[tuple[int, int], ...], tuple[int, ...]] | None = None
    for order in _orders(len(names), costs):
        ends = zip(order, (*order[1:], order[0]), strict=True)
        cost = tuple(sorted((costs[pair] for pair in ends if pair[0] != pair[1]), reverse=True))
        if best is None or (cost, order) < best:
            best = cost, order
    if best is None:
        raise NodeUnreachable(_why_none(names, table))
    order = best[1]
    if len(order) == 1:
        return Ring(order, ())
    pairs = zip(order, (*order[1:], order[0]), strict=True)
    return Ring(order, tuple(links[pair] for pair in pairs))


def ring_hosts(ring: Ring, ranks: Sequence[int], alone: str) -> tuple[str, ...]:
    """Where each rank listens, by rank: the address that the node before reaches.

    `ranks` says by node how many ranks it runs, next to each other; `alone` is the address for
    the ranks of a single node.
    """
    targets = [link.target for link in ring.edges] or [alone]
    hosts: list[str] = []
    for place, node in enumerate(ring.order):
        hosts.extend([targets[place - 1]] * ranks[node])
    return tuple(hosts)


def rdma_devices(ring: Ring, table: LinkTable) -> tuple[tuple[str, ...], ...] | None:
    """By rank, its RDMA device towards each rank, for a mesh of one rank per node; None unless
    every pair has a Thunderbolt link with a device at both ends.

    Both devices of a pair are taken from one link: they are the two ends of one cable.
    """
    world = len(ring.order)
    if not 2 <= world <= MOST_JACCL:
        return None
    matrix = [[""] * world for _ in range(world)]
    for low in range(world):
        for high in range(low + 1, world):
            links = table.get((ring.order[low], ring.order[high]), ())
            able = [link for link in links if link.kind == "thunderbolt" and all(link.rdma)]
            found = best_link(able)
            if found is None:
                return None
            matrix[low][high], matrix[high][low] = found.rdma
    return tuple(tuple(row) for row in matrix)


def _cost(link: Link) -> tuple[int, int]:
    speed = math.floor(math.log2(link.bytes_per_second)) if link.bytes_per_second >= 1 else 0
    return kind_rank(link.kind), -speed


def _orders(count: int, costs: dict[tuple[int, int], tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Orders that close to a ring, best next link first; not all when there are too many."""
    steps = 0

    def extend(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        nonlocal steps
        steps += 1
        if len(order) == count:
            if count == 1 or (order[-1], order[0]) in costs:
                yield order
            return
        reach = [node for node in range(count) if node not in order and (order[-1], node) in costs]
        for node in sorted(reach, key=lambda node: (costs[order[-1], node], node)):
            if steps > _MOST_STEPS:
                return
            yield from extend((*order, node))

    return extend((0,)) if count else iter(())


def _why_none(names: Sequence[str], table: LinkTable) -> str:
    """Which nodes can't reach which, and what was tried."""
    missing = [
        (one, other)
        for one in range(len(names))
        for other in range(len(names))
        if one != other and best_link(table.get((one, other), ())) is None
    ]
    if not missing:
        return "no order of the nodes was found in which each reaches the next"
    lines = []
    for one, other in missing[:_NAMED]:
        tried = [f"{link.target}: {link.error}" for link in table.get((one, other), ())]
        why = "; ".join(tried) or "it has no IPv4 address that was probed"
        lines.append(f"{names[one]} can't reach {names[other]} ({why})")
    more = f", and {len(missing) - _NAMED} more pairs" if len(missing) > _NAMED else ""
    return (
        f"the data plane has no way round all nodes: {', '.join(lines)}{more}. Each node must "
        "reach the next over TCP on any port: check cables, addresses and firewalls"
    )
