"""One epoch of one group, from its first call to the last engine gone: what epoch.py and adopt.py
do, and the results that drive.py hands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.coordinator.adopt import take_over
from cluster.coordinator.epoch import STOP_SECONDS, Place
from cluster.coordinator.ranks import agreed, check_taken
from cluster.core.cluster import Hello, LaunchSpec, ShardPlan
from cluster.core.errors import (
    EpochEnded,
    NotAuthorized,
    ProtocolError,
    SetupError,
    TandemError,
)
from cluster.core.ids import Epoch, Rank
from cluster.membership.roster import Node as Member
from cluster.wire.node_client import ANSWER_SECONDS
from tests.simulation.engine import VERSIONS
from tests.simulation.follow import Follow
from tests.simulation.line import Line
from tests.simulation.node import Node

if TYPE_CHECKING:
    from cluster.core.plan import Step
    from tests.simulation.runner import Runner


class Formation:
    """Of these machines, one rank each."""

    def __init__(self, runner: Runner, members: Sequence[Member]) -> None:
        self.runner = runner
        self.head = runner.head
        self.members = members
        self.nodes = [runner.head.nodes[member.id] for member in members]
        self.number = runner.epochs.number
        self.lines: list[Line] = []
        self.running = False
        self.secret = ""
        self.places: list[Place] = []
        self._hellos: list[Hello] = []
        self._follows: list[Follow] = []
        self._error: TandemError | None = None

    # What was left behind

    def start(self) -> None:
        """Look, one group at a time, for engines to go on with."""
        self.head.looking.take(self._look)

    def _look(self) -> None:
        head = self.head
        answers: dict[str, list[LaunchSpec]] = {}

        def told(name: str, specs: list[LaunchSpec] | None) -> None:
            answers[name] = specs or []
            if len(answers) == len(self.nodes):
                self._found(
                    [
                        Place(node, spec)  # type: ignore[arg-type]
                        for node in self.nodes
                        for spec in answers[node.name]
                        if spec.incarnation <= head.incarnation
                    ]
                )

        for node in self.nodes:
            head.machine.network.ask(
                head,
                node.name,
                lambda node=node: node.agent,
                lambda node=node: node.agent.orphans() if node.agent is not None else [],
                lambda specs, name=node.name: told(name, specs),
                ANSWER_SECONDS,
            )

    def _found(self, found: list[Place]) -> None:
        head, share = self.head, self.runner.share
        nodes: Sequence[object] = self.nodes
        group, rest = take_over(found, nodes, (), head.recipe, share)  # type: ignore[arg-type]
        waiting = {(place.member, place.spec.secret) for place in rest}

        def gone(node: object, secret: str) -> None:
            waiting.discard((node, secret))  # type: ignore[arg-type]
            if not waiting:
                self._looked(group)

        if not waiting:
            self._looked(group)
        for node, secret in dict.fromkeys((place.member, place.spec.secret) for place in rest):
            assert isinstance(node, Node)
            self._stop(node, secret, lambda _, node=node, secret=secret: gone(node, secret))

    def _looked(self, group: list[Place]) -> None:
        self.head.looking.free()
        if group:
            self.number = int(group[0].spec.epoch)
            self.runner.epochs.adopted(self.number)
            self.runner.say(f"adopts epoch {self.number}")
        places = group or self._orders()
        self.places = places
        self.secret = self.runner.share.secret = places[0].spec.secret
        self._follows = [Follow(self.runner, place, self._came_up, self.over) for place in places]
        for follow in self._follows:
            if group:
                follow.attach()
            else:
                follow.launch()

    def _orders(self) -> list[Place]:
        """For a new group, by rank."""
        world = len(self.nodes)
        kind, backend = ("tensor", "ring") if world > 1 else ("single", "none")
        secret = f"{self.head.world.random.getrandbits(64):016x}"
        names = " ".join(node.name for node in self.nodes)
        self.runner.say(f"launches epoch {self.number} on {names}")
        return [
            Place(
                node,  # type: ignore[arg-type]
                LaunchSpec(
                    Epoch(self.number),
                    secret,
                    self.head.recipe.model,
                    self.head.recipe.digest,
                    ShardPlan(world, Rank(rank), kind, backend),
                    incarnation=self.head.incarnation,
                ),
            )
            for rank, node in enumerate(self.nodes)
        ]

    # Sessions

    def _came_up(self) -> None:
        if all(follow.ready for follow in self._follows):
            self._connect()

    def _connect(self) -> None:
        """One after the other."""
        rank = len(self.lines)
        head, spec = self.head, self.places[rank].spec
        hello = Hello(spec.epoch, head.incarnation, VERSIONS, head.recipe.digest, spec.plan)
        engine = head.groups.of(spec).engines[rank]
        line = Line(
            head, head.machine.network, engine, hello, self._opened, self._result, self.over
        )
        self.lines.append(line)
        line.open()

    def _opened(self, theirs: Hello) -> None:
        self._hellos.append(theirs)
        if len(self._hellos) < len(self.places):
            self._connect()
            return
        try:
            check_taken([hello.facts for hello in self._hellos])
        except EpochEnded as error:
            self.over(error)
            return
        machine, runner = self.head.machine, self.runner
        self.running = True
        runner.say(f"begins epoch {self.number} on {len(self.lines)}")
        runner.coordinator.limits = machine.limits
        runner.epochs.begun()
        runner.coordinator.begin(Epoch(self.number), trimmable=machine.trimmable)
        self.head.move()

    def send(self, step: Step) -> None:
        for line in self.lines:
            if self.head.doomed and self.head.world.chance(0.5):
                self.head.die()
                return
            line.send(step)

    def _result(self) -> None:
        runner, checks = self.runner, self.head.machine.checks
        while self._error is None and all(line.results for line in self.lines):
            results = [line.results.popleft() for line in self.lines]
            try:
                result = agreed(results)
                checks.apply(self, result)
                runner.coordinator.apply(result, results)
            except ProtocolError as error:
                self.over(error)
                return
            checks.applied(runner)
            runner.pump()

    # The end

    def over(self, error: TandemError) -> None:
        """The first reason counts."""
        if self._error is not None:
            return
        self._error = error
        self.runner.say(f"epoch {self.number} is over: {type(error).__name__}: {error}")
        self.head.machine.checks.over(self, error)
        if self.running:
            self.runner.coordinator.end(error)
        for line in self.lines:
            line.close()
        for follow in self._follows:
            follow.close()
        if isinstance(error, NotAuthorized):
            self._gone(error)  # they are another's now
            return
        answers: list[NotAuthorized | None] = []

        def stopped(refusal: NotAuthorized | None) -> None:
            answers.append(refusal)
            if len(answers) == len(self.nodes):
                self._gone(next(filter(None, answers), error))

        for node in self.nodes:
            self._stop(node, self.secret, stopped)

    def _stop(
        self, node: Node, secret: str, answer: Callable[[NotAuthorized | None], None]
    ) -> None:
        """End the engines of an epoch there."""

        def end() -> NotAuthorized | None:
            agent, incarnation = node.agent, self.head.incarnation
            return agent.stop_epoch(secret, incarnation) if agent is not None else None

        self.head.machine.network.ask(
            self.head, node.name, lambda: node.agent, end, answer, STOP_SECONDS
        )

    def _gone(self, error: TandemError) -> None:
        self.runner.share.secret = ""
        if isinstance(error, EpochEnded | ProtocolError):
            self.runner.ended(self, error)
        else:
            assert isinstance(error, SetupError)
            self.runner.failed(error)
