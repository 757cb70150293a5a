"""The machines of all groups, as people see them, and free them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from cluster.coordinator.runner import Runner
from cluster.coordinator.share import Shares
from cluster.coordinator.survey import survey
from cluster.core.clock import Clock
from cluster.core.errors import NotFound, NotReady
from cluster.core.facts import Pair, Survey
from cluster.core.view import MemberView
from cluster.membership.roster import Node


class Machines:
    """Implements Crew."""

    def __init__(
        self, shares: Shares, groups: Callable[[], Collection[Sequence[Runner]]], clock: Clock
    ) -> None:
        """`groups` tells the groups of each model that is loaded."""
        self._shares = shares
        self._roster = shares.members.roster
        self._groups = groups
        self._clock = clock

    def view(self) -> tuple[MemberView, ...]:
        """See Crew."""
        return tuple(map(self._view, self._roster.computing))

    def links(self) -> tuple[Pair, ...]:
        """See Crew."""
        runners = (runner for groups in self._groups() for runner in groups)
        found = {
            (pair.here_id, pair.there_id): pair for runner in runners for pair in runner.links()
        }
        return tuple(found.values())

    async def facts(self) -> Survey:
        """See Crew."""
        members = self._shares.members
        told = await survey(members.of(self._roster))
        here = {machine.agent_address for machine in told}
        away = (each for each in members.turned_away if each.agent_address not in here)
        return Survey(members.address, (*told, *away))

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """See Crew. One group of each model has to be able to go on."""
        node = self._shares.members.named(name)
        if node is None:
            here = ", ".join(each.name for each in self._roster.computing)
            raise NotFound(f"no machine {name[:100]!r} is here: there are {here}", param="node")
        for groups in self._groups():
            obstacles = [group.does_without(node) for group in groups]
            if draining and obstacles and all(obstacles):
                raise NotReady(
                    f"without {node.name} nothing could be served ({obstacles[0]}): add a "
                    "machine first",
                    retry_after=30,
                ) from obstacles[0]
            if not draining:
                for group in groups:
                    group.regroup()
        node.draining = draining
        self._shares.members.changes.note()
        return self._view(node)

    def _view(self, node: Node) -> MemberView:
        presence = node.presence(self._clock.now())
        ranks = self._shares.ranks_on(node.id)
        runners = (runner for groups in self._groups() for runner in groups)
        held = sum(runner.held_on(node.id) for runner in runners)
        return MemberView(node.id, node.name, presence, node.draining, ranks, held)
