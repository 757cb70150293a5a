"""What groups of engines that run side by side take of the machines, and what is left for each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from cluster.coordinator.members import Member, Members
from cluster.coordinator.paths import Paths
from cluster.membership.deal import deal
from cluster.membership.epochs import Numbers
from cluster.membership.roster import Node


class Shares:
    """The machines, and the shares of all groups."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.numbers = Numbers()
        self.looking = asyncio.Lock()
        """Held by who looks for engines that nobody holds, until it has taken some."""
        self._shares: list[Share] = []

    def __iter__(self) -> Iterator[Share]:
        return iter(self._shares)

    def new(self, model: str, replica: int, replicas: int) -> Share:
        """For one of `replicas` groups of a model, which takes nothing yet."""
        share = Share(self, model, replica, replicas)
        self._shares.append(share)
        return share

    def deal(self, taken: Sequence[Mapping[str, int]], now: float) -> list[Node]:
        """What the next epoch of a group may use beside the other groups of its model, which have
        `taken` so much: see deal.py. What failed on a machine leaves it out only where another is
        left for this group."""
        roster, groups = self.members.roster, len(taken) + 1
        return deal(roster.usable(now), taken, groups) or deal(roster.present(now), taken, groups)

    @property
    def secrets(self) -> set[str]:
        """Of all epochs that are being formed, or run: their engines are not left behind."""
        return {share.secret for share in self._shares if share.secret}

    def ranks_on(self, node_id: str) -> int:
        """Engines of all groups on a machine."""
        return sum(share.ranks.get(node_id, 0) for share in self._shares if share.secret)

    def bytes_on(self, node_id: str, besides: Collection[Share]) -> int:
        """What all groups but some are planned to take of a machine."""
        others = (share for share in self._shares if share not in besides)
        return sum(share.rank_bytes * share.ranks.get(node_id, 0) for share in others)


class Share:
    """What one group takes, and may take. Implements Places."""

    def __init__(self, shares: Shares, model: str, replica: int, replicas: int) -> None:
        self.all = shares
        self.paths = Paths()
        """The ways between its machines."""
        self.model = model
        self.replica = replica
        self.replicas = replicas
        """How many groups of the model there are."""
        self.ranks: Mapping[str, int] = {}
        """By node id, of the epoch that runs, is being formed, or ran last."""
        self.rank_bytes = 0
        """What each of them is planned to take at most."""
        self.kind = "single"
        self.secret = ""
        """Of the epoch that runs or is being formed."""
        self.ran = False
        """An epoch has begun, since the model was loaded."""
        self.looked = False
        """It has looked for engines that an earlier coordinator has left."""
        self._roster = shares.members.roster

    @property
    def siblings(self) -> list[Share]:
        """The other groups of the model."""
        return [each for each in self.all if each.model == self.model and each is not self]

    @property
    def others_ran(self) -> bool:
        """Another group of the model runs, or has run."""
        return any(sibling.ran for sibling in self.siblings)

    def take(self, members: Iterable[Member], kind: str, rank_bytes: int) -> None:
        """An epoch is to run on these, instead of those before; `kind` says how its ranks split
        the model."""
        self.kind = kind
        self.ranks = {member.id: member.ranks for member in members}
        self.rank_bytes = rank_bytes

    def let_go(self) -> None:
        """It takes nothing any more; others that wait for room are told."""
        self.ranks, self.rank_bytes, self.secret, self.ran = {}, 0, "", False
        self.all.members.changes.note()

    def usable(self, now: float) -> list[Node]:
        """See Places: what the other groups of the model leave."""
        if self.replicas == 1:
            return self._roster.usable(now)
        return self.all.deal([each.ranks for each in self.siblings], now)

    def gone(self, node_ids: Collection[str], now: float) -> list[str]:
        """See Places."""
        return self._roster.gone(node_ids, now)

    def find(self, node_id: str) -> Node | None:
        """See Places."""
        return self._roster.find(node_id)

    def worked(self, node_ids: Collection[str]) -> None:
        """See Places."""
        self.ran = True
        self._roster.worked(node_ids)

    def left_of(self, members: Sequence[Member], gone: Collection[str] = ()) -> list[Member]:
        """The members with what is left of them for this group: of a machine that is shared with
        groups of the same model, its part; and nothing that groups of other models take, those
        of the models `gone` excepted."""
        besides = [each for each in self.all if each.model == self.model or each.model in gone]
        return [self._left(member, self.all.bytes_on(member.id, besides)) for member in members]

    def _left(self, member: Member, taken: int) -> Member:
        node = member.description
        every = member.ranks + member.beside
        return replace(
            member,
            description=replace(
                node,
                usable_bytes=max(0, node.usable_bytes - taken) * member.ranks // every,
                cores=max(1, node.cores * member.ranks // every),
            ),
        )
