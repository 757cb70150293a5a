"""The coordinator's process: its machines, and the groups of one model, as fleet.py and members.py
keep them, with the product's Served, Roster and Shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import Recipe
from cluster.coordinator.served import Offer, Served
from cluster.coordinator.share import Shares
from cluster.core.config import Pacing
from cluster.core.errors import NotAuthorized
from cluster.core.ids import RequestId
from cluster.core.view import ServedModel
from cluster.membership.roster import SUSPECT_SECONDS, Roster
from cluster.wire.node_client import ANSWER_SECONDS
from tests.simulation.engine import Machine
from tests.simulation.model import Letters
from tests.simulation.node import Groups, Listener, Node
from tests.simulation.runner import Runner
from tests.simulation.world import Lock, World

GREET_SECONDS = 0.5
DIGEST = "d"
MODEL = ServedModel("simulated", 4096, 0, demo=False)


@dataclass
class Members:
    """What Shares knows of members.py."""

    roster: Roster = field(default_factory=Roster)


class Head(Listener):
    """One start of it."""

    def __init__(
        self,
        world: World,
        name: str,
        incarnation: int,
        machine: Machine,
        nodes: Sequence[Node],
        groups: Groups,
    ) -> None:
        super().__init__(world, name, name)
        self.incarnation = incarnation
        self.machine = machine
        self.nodes = {node.name: node for node in nodes}
        self.groups = groups
        self.recipe = Recipe(MODEL.id, DIGEST, incarnation)
        self.looking = Lock()
        """As in Shares."""
        self.roster = Roster()
        self.doomed = False
        """It dies the next time that it sends a step, before all ranks have it."""
        self.changes = 0
        """As in Members."""
        coordinators = [
            Coordinator(
                MODEL,
                Letters(),  # type: ignore[arg-type]
                limits=machine.limits,
                pacing=Pacing(),
                clock=world,
            )
            for _ in range(machine.replicas)
        ]
        offer = Offer(MODEL, Path(), self.recipe, None, 0)  # type: ignore[arg-type]
        self.served = Served(offer, coordinators, self._check, lambda: None)
        shares = Shares(Members(self.roster))  # type: ignore[arg-type]
        self.runners = [
            Runner(self, coordinator, shares.new(MODEL.id, replica, machine.replicas))
            for replica, coordinator in enumerate(coordinators)
        ]
        for node in nodes:
            node.listeners.append(self)
            self._attend(node)
        self.after(0.1, self._begin)

    def _begin(self) -> None:
        """Once there is a machine for each group, as `--nodes` waits for them."""
        if len(self.roster) < len(self.runners):
            self.after(0.1, self._begin)
            return
        for runner in self.runners:
            runner.form()

    def _check(self, model: str) -> None:
        """What Fleet asks of a model that is being loaded."""
        if not self.started:
            self.served.groups[0].check_accepting()

    @property
    def started(self) -> bool:
        """A group has run."""
        return any(runner.epochs.started for runner in self.runners)

    @property
    def serving(self) -> bool:
        """Every group runs."""
        return all(group.scheduler is not None for group in self.served.groups)

    # Machines

    def heard(self, name: str, incarnation: int) -> None:
        if self.roster.heard(name, incarnation, self.world.now()):
            return
        self._greet(self.nodes[name])

    def _attend(self, node: Node) -> None:
        """Greet it while nothing is heard of it."""

        def look() -> None:
            known = self.roster.find(node.name)
            if known is None or self.world.now() - known.heard > SUSPECT_SECONDS:
                self._greet(node)

        look()
        self.every(GREET_SECONDS, look)

    def _greet(self, node: Node) -> None:
        self.describe(node, lambda told: self._arrived(node, told))

    def _arrived(self, node: Node, incarnation: int | None) -> None:
        if incarnation is None:
            return
        known = self.roster.find(node.name)
        try:
            now = self.roster.arrive(node.name, incarnation, self.world.now(), name=node.name)
        except NotAuthorized:
            return
        if now is not known:
            self.changed()

    def changed(self) -> None:
        """A machine has come or gone, or is to be free."""
        self.changes += 1
        for runner in [each for each in self.runners if each.waits]:
            runner.form()

    def describe(self, node: Node, answer: Callable[[int | None], None]) -> None:
        self.machine.network.ask(
            self,
            node.name,
            lambda: node.agent,
            lambda: node.agent.incarnation if node.agent is not None else None,
            answer,
            ANSWER_SECONDS,
        )

    # Requests

    def holder(self, request_id: RequestId) -> Runner | None:
        """Of the group that has it."""
        for runner in self.runners:
            if request_id in runner.coordinator.live.journal:
                return runner
        return None

    def move(self) -> None:
        """A group has begun, or it is known why one has ended."""
        before = {
            request_id: runner
            for runner in self.runners
            for request_id in runner.coordinator.live.journal
        }
        self.served.move()
        self.machine.checks.moved(self, before)
        self.pump()

    def pump(self) -> None:
        """Send what is planned."""
        for runner in self.runners:
            runner.pump()
