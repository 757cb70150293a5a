"""The ways between the members, as they were probed last, and the ring that a group takes."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.coordinator.edges import probe_pairs
from cluster.coordinator.members import Member
from cluster.core.facts import Pair
from cluster.core.link import Link
from cluster.placement.edges import Ring, best_link, choose_ring, rdma_devices
from cluster.placement.links import LINKS, Links, measured
from cluster.placement.links import Link as Speed
from cluster.wire.security import is_loopback


class Paths:
    """Links by pairs of node ids."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str], Sequence[Link]] = {}
        self.rdma_failed = False
        """A group over RDMA could not be formed: a device does not mean that it works."""

    async def probe(self, members: Sequence[Member]) -> None:
        """Look anew at all links between `members`; of others, what was known is forgotten.
        Raises NodeUnreachable when an agent does not answer, LaunchFailed when it can't listen."""
        table = await probe_pairs(members) if len(members) > 1 else {}
        self._links = {
            (members[one].id, members[other].id): links for (one, other), links in table.items()
        }

    def ring(self, members: Sequence[Member]) -> Ring:
        """The best ring over `members`, by their places. Pairs that were not probed are taken to
        reach each other where their agents listen. Raises NodeUnreachable, with the pairs that
        can't, when there is none."""
        names = [member.description.hostname for member in members]
        return choose_ring(names, self._table(members))

    def rdma(self, members: Sequence[Member], ring: Ring) -> tuple[tuple[str, ...], ...] | None:
        """Each rank's RDMA device towards each other; None unless every pair has one, every
        member runs one rank, and it has not failed before."""
        if self.rdma_failed or any(member.ranks != 1 for member in members):
            return None
        return rdma_devices(ring, self._table(members))

    def speeds(self, members: Sequence[Member], ring: Ring) -> Links:
        """How fast the links of `ring` over `members` are, for predictions."""
        if self.rdma(members, ring):
            return Links(LINKS["rdma"])
        ends = zip(ring.order, (*ring.order[1:], *ring.order[:1]), strict=True)
        pairs: dict[frozenset[str], Speed] = {}
        for (one, other), link in zip(ends, ring.edges, strict=False):
            kind = "loopback" if is_loopback(link.target) else link.kind
            found = measured(kind, link.round_trip, link.bytes_per_second)
            pair = frozenset((members[one].id, members[other].id))
            # Of two machines, both ways: the slower one counts.
            slower = max(found, pairs.get(pair, found), key=lambda speed: speed.latency)
            pairs[pair] = slower
        return Links(pairs=pairs)

    def of(self, one: Member, other: Member) -> Sequence[Link]:
        """What was found between two members; empty when they were not probed."""
        return self._links.get((one.id, other.id), ())

    def pairs(self, members: Sequence[Member]) -> tuple[Pair, ...]:
        """The best link of each pair that was probed, each way, for people."""
        return tuple(
            _pair(one, other, links)
            for one in members
            for other in members
            if one is not other and (links := self.of(one, other))
        )

    def _table(self, members: Sequence[Member]) -> dict[tuple[int, int], Sequence[Link]]:
        return {
            (i, j): self.of(one, other) or [Link("", other.host, "other")]
            for i, one in enumerate(members)
            for j, other in enumerate(members)
            if i != j
        }


def _pair(one: Member, other: Member, links: Sequence[Link]) -> Pair:
    best = best_link(links)
    return Pair(
        one.description.hostname,
        other.description.hostname,
        (best or links[0]).kind,
        round_trip_us=best.round_trip * 1e6 or None if best else None,
        gigabits=best.bytes_per_second * 8 / 1e9 or None if best else None,
        error="" if best else links[0].error,
        here_id=one.id,
        there_id=other.id,
    )
