"""Links between machines: how long a message between ranks takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Link:
    """A way from one rank to another."""

    kind: str
    latency: float
    """Seconds that a small all_sum of two ranks takes."""
    throughput: float
    """Bytes per second."""
    mesh: bool = False
    """Every rank reaches every other at once (jaccl); else messages go round a ring."""

    def seconds(self, world: int) -> float:
        """Of a small collective among `world` ranks. In a ring each of them adds a step."""
        return self.latency * (1 if self.mesh else max(1, world - 1))


LINKS = {
    link.kind: link
    for link in (
        Link("rdma", 30e-6, 6e9, mesh=True),
        Link("thunderbolt", 300e-6, 2.5e9),
        Link("ethernet", 300e-6, 0.118e9),
        Link("wifi", 3e-3, 0.04e9),
        Link("loopback", 40e-6, 2.5e9),
        Link("other", 300e-6, 0.118e9),
    )
}
"""By kind. TCP over Thunderbolt takes about 300 us and RDMA below 50 (Jeff Geerling, "1.5 TB of
VRAM on Mac Studio", December 2025); an all_sum on loopback was measured with MLX's ring backend.
Thunderbolt 5 carries 10 GB/s, gigabit Ethernet 0.125: something less is counted. A wireless link
has no typical figure: this one is a guess."""


def measured(kind: str, round_trip: float, bytes_per_second: float) -> Link:
    """A link of `kind` with what was measured of it, in powers of two, so that noise does not
    prefer one of two alike machines; 0 for what was not. Where two ranks meet, each sends to the
    other, which takes about as long as a round trip."""
    known = LINKS.get(kind, LINKS["other"])
    latency, throughput = map(_power_of_two, (round_trip, bytes_per_second))
    return replace(
        known, latency=latency or known.latency, throughput=throughput or known.throughput
    )


def _power_of_two(value: float) -> float:
    """The nearest one; 0 for 0."""
    return float(2.0 ** round(math.log2(value))) if value > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Links:
    """The links of a set of machines."""

    default: Link = LINKS["ethernet"]
    pairs: Mapping[frozenset[str], Link] = field(default_factory=dict)
    """By the ids of both machines, where it is another than `default`."""

    def between(self, one: str, other: str) -> Link:
        """From machine to machine; within one, loopback."""
        if one == other:
            return LINKS["loopback"]
        return self.pairs.get(frozenset((one, other)), self.default)

    def worst(self, nodes: Sequence[str]) -> Link:
        """What bounds a ring through the machines of ranks in this order: of its links the
        longest latency and the least throughput."""
        around = pairwise((*nodes, nodes[0]))
        links = [self.between(one, other) for one, other in around if len(nodes) > 1]
        links = links or [LINKS["loopback"]]
        slowest = max(links, key=lambda link: link.latency)
        return Link(
            slowest.kind,
            slowest.latency,
            min(link.throughput for link in links),
            mesh=all(link.mesh for link in links),
        )
