"""The coordinator's process: the product's Coordinator, Epochs, Roster and Sessions, and what
drive.py, runner.py, epoch.py and members.py do around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.coordinator.adopt import whole
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS
from cluster.coordinator.epoch import REACH_SECONDS, RETRY_SECONDS, STOP_SECONDS, Place, Recipe
from cluster.coordinator.ranks import agreed, check_taken
from cluster.core.cluster import Exited, Hello, LaunchSpec, Ready, ShardPlan
from cluster.core.config import Pacing
from cluster.core.errors import (
    EngineCrashed,
    EpochEnded,
    LaunchFailed,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    NotFound,
    ProtocolError,
    SetupError,
    TandemError,
)
from cluster.core.ids import Epoch, Rank
from cluster.core.view import ServedModel
from cluster.membership.epochs import Epochs
from cluster.membership.roster import SUSPECT_SECONDS, Roster
from cluster.membership.roster import Node as Member
from cluster.wire.node_client import ANSWER_SECONDS, SILENCE_SECONDS
from tests.simulation.engine import VERSIONS, Machine
from tests.simulation.line import LOOK_SECONDS, Line
from tests.simulation.model import Letters
from tests.simulation.network import Stream
from tests.simulation.node import Attach, Groups, Listener, Node
from tests.simulation.world import World

if TYPE_CHECKING:
    from cluster.core.plan import Step

GREET_SECONDS = 0.5
DIGEST = "d"


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
        self.coordinator = Coordinator(
            ServedModel("simulated", 4096, 0, demo=False),
            Letters(),  # type: ignore[arg-type]
            limits=machine.limits,
            pacing=Pacing(),
            clock=world,
        )
        self.roster = Roster()
        self.epochs: Epochs[int] = Epochs(self.roster, len)
        self.recipe = Recipe("simulated", DIGEST, incarnation)
        self.forming: Formation | None = None
        """The epoch that runs, or is about to."""
        self._waits = False
        """For the end of a pause, or a machine that comes."""
        self._changed = False
        """One has come since the last attempt began."""
        self._turn = 0
        self.doomed = False
        """It dies the next time that it sends a step, before all ranks have it."""
        for node in nodes:
            node.listeners.append(self)
            self._attend(node)
        self.every(WATCH_SECONDS, self._watch)
        self.every(LOOK_SECONDS, self._look_after_lines)
        self.after(0.1, self.form)

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
        self._changed = True
        if self._waits:
            self.form()

    def describe(self, node: Node, answer: Any) -> None:
        self.machine.network.ask(
            self,
            node.name,
            lambda: node.agent,
            lambda: node.agent.incarnation if node.agent is not None else None,
            answer,
            ANSWER_SECONDS,
        )

    # Epochs

    def form(self) -> None:
        """The next epoch."""
        self._waits = self._changed = False
        try:
            members, _ = self.epochs.next(self.world.now())
        except SetupError as error:
            self.failed(error)
            return
        self.forming = Formation(self, members)
        self.forming.start()

    def ended(self, formation: Formation, error: EpochEnded | ProtocolError) -> None:
        """Its engines are gone, or can't be asked."""
        try:
            suspicious = self.epochs.ended(error)
        except NotAuthorized as replaced:
            self.world.say(self.name, f"gives up: {replaced}")
            self.die()
            return
        if not suspicious:
            self.pause()
            return
        waiting = {member.id: member for member in formation.members}
        answers: dict[str, bool] = {}

        def told(name: str, incarnation: int | None) -> None:
            answers[name] = incarnation == waiting[name].incarnation
            if len(answers) == len(waiting):
                if all(answers.values()):
                    self.machine.checks.blamed(self, formation, error)
                    self.coordinator.live.blame()
                self.pause()

        for name in waiting:
            self.describe(self.nodes[name], lambda told_=None, name=name: told(name, told_))

    def failed(self, error: SetupError) -> None:
        """No group could be formed."""
        try:
            self.epochs.failed(error)
        except SetupError:
            self.world.say(self.name, f"gives up: {error}")
            self.die()
            return
        self.coordinator.waiting_for(str(error))
        self.pause()

    def pause(self) -> None:
        self.forming = None
        self._waits = True
        self._turn += 1
        turn = self._turn

        def on() -> None:
            if self._waits and self._turn == turn:
                self.form()

        self.after(0.001 if self._changed else max(self.epochs.pause, 0.001), on)

    # The epoch that runs

    def pump(self) -> None:
        """Send what is planned."""
        formation = self.forming
        while self.alive and formation is not None and self.coordinator.scheduler is not None:
            _, step = self.coordinator.next()
            if step is None:
                break
            self.machine.checks.sent(self, step)
            self.world.say(self.name, f"sends {step.epoch}.{step.seq}")
            formation.send(step)

    def _watch(self) -> None:
        formation = self.forming
        running = self.coordinator.scheduler is not None
        try:
            self.coordinator.look()
            if running:
                coordinator = self.coordinator
                self.epochs.look(
                    self.world.now(),
                    silent=coordinator.silent_for(),
                    idle=not coordinator.live.journal,
                )
        except EpochEnded as error:
            if formation is not None:
                formation.over(error)
            return
        self.machine.checks.look(self)
        self.pump()

    def _look_after_lines(self) -> None:
        if self.forming is not None:
            for line in self.forming.lines:
                line.look()


@dataclass(eq=False)
class _Follow:
    """What an agent tells of one engine."""

    stream: Stream | None = None
    heard: float = 0.0
    ready: bool = False


class Formation:
    """One epoch from its first call to the last engine gone."""

    def __init__(self, head: Head, members: Sequence[Member]) -> None:
        self.head = head
        self.members = members
        self.number = head.epochs.number
        self.lines: list[Line] = []
        self.running = False
        self.secret = ""
        self._hellos: list[Hello] = []
        self._places: list[Place] = []
        self._follows: list[_Follow] = []
        self._error: TandemError | None = None

    def start(self) -> None:
        head = self.head
        answers: dict[str, list[LaunchSpec]] = {}

        def told(name: str, specs: list[LaunchSpec] | None) -> None:
            answers[name] = specs or []
            if len(answers) == len(self.members):
                found = [
                    Place(head.nodes[member.id], spec)  # type: ignore[arg-type]
                    for member in self.members
                    for spec in answers[member.id]
                ]
                left = [each for each in found if each.spec.incarnation <= head.incarnation]
                group = whole(left, head.recipe) if self.number == 1 else []
                names = {place.member.name for place in group}  # type: ignore[attr-defined]
                if group and names == set(answers):
                    self._adopt(group)
                else:
                    self._clear(left)

        for member in self.members:
            node = head.nodes[member.id]
            head.machine.network.ask(
                head,
                node.name,
                lambda node=node: node.agent,
                lambda node=node: node.agent.orphans() if node.agent is not None else [],
                lambda specs, name=node.name: told(name, specs),
                ANSWER_SECONDS,
            )

    def _adopt(self, places: list[Place]) -> None:
        self.number = int(places[0].spec.epoch)
        self.head.epochs.adopted(self.number)
        self._say(f"adopts epoch {self.number}")
        self._follow(places, adopt=True)

    def _clear(self, left: list[Place]) -> None:
        """What nobody holds makes room; then the engines are launched."""
        waiting = {(place.member, place.spec.secret) for place in left}
        if not waiting:
            self._launch()

        def gone(node: Node, secret: str) -> None:
            waiting.discard((node, secret))
            if not waiting:
                self._launch()

        for place in left:
            node = place.member
            assert isinstance(node, Node)
            self._stop(
                node,
                place.spec.secret,
                lambda _, node=node, secret=place.spec.secret: gone(node, secret),
            )

    def _launch(self) -> None:
        world = len(self.members)
        kind, backend = ("tensor", "ring") if world > 1 else ("single", "none")
        secret = f"{self.head.world.random.getrandbits(64):016x}"
        names = " ".join(member.id for member in self.members)
        self._say(f"launches epoch {self.number} on {names}")
        self._follow(
            [
                Place(
                    self.head.nodes[member.id],  # type: ignore[arg-type]
                    LaunchSpec(
                        Epoch(self.number),
                        secret,
                        "simulated",
                        DIGEST,
                        ShardPlan(world, Rank(rank), kind, backend),
                        incarnation=self.head.incarnation,
                    ),
                )
                for rank, member in enumerate(self.members)
            ],
            adopt=False,
        )

    # What agents tell

    def _follow(self, places: list[Place], *, adopt: bool) -> None:
        self._places = places
        self.secret = places[0].spec.secret
        now = self.head.world.now()
        self._follows = [_Follow(heard=now) for _ in places]
        for rank, place in enumerate(places):
            self._call(rank, self._attach(rank) if adopt else place.spec)

    def _attach(self, rank: int) -> Attach:
        return Attach(self.secret, Rank(rank), self.head.incarnation)

    def _call(self, rank: int, orders: LaunchSpec | Attach) -> None:
        head, follow = self.head, self._follows[rank]
        node = self._node(rank)
        agent = node.agent
        began = head.world.now()
        done = False

        def opened(stream: Stream) -> None:
            nonlocal done
            if done or self._error is not None or not head.alive:
                stream.close(0)
                return
            done = True
            follow.stream = stream
            stream.hear[0] = lambda message: self._told(rank, stream, message)
            stream.broken[0] = lambda: self._unreached(rank, stream)
            assert agent is not None
            agent.accept(stream)
            stream.send(0, orders)
            self._listen(rank, stream)

        def failed() -> None:
            nonlocal done
            if not done:
                done = True
                self._unreached(rank, None)

        assert agent is not None
        head.machine.network.connect(head, agent, opened, failed)
        head.after(ANSWER_SECONDS, failed)
        follow.heard = max(follow.heard, 0.0 if follow.ready else began)

    def _node(self, rank: int) -> Node:
        node = self._places[rank].member
        assert isinstance(node, Node)
        return node

    def _listen(self, rank: int, stream: Stream) -> None:
        """An agent that falls silent is not there."""
        follow = self._follows[rank]

        def look() -> None:
            if follow.stream is stream and self._error is None:
                if self.head.world.now() - follow.heard >= SILENCE_SECONDS:
                    stream.close(0)
                    self._unreached(rank, stream)
                else:
                    self.head.after(1.0, look)

        self.head.after(1.0, look)

    def _told(self, rank: int, stream: Stream, message: object) -> None:
        follow = self._follows[rank]
        if follow.stream is not stream or self._error is not None:
            return
        follow.heard = self.head.world.now()
        match message:
            case Ready():
                if not follow.ready:
                    follow.ready = True
                    if all(each.ready for each in self._follows):
                        self._connect()
            case Exited(code):
                why = f"the engine of rank {rank} exited with {code}"
                self.over(EngineCrashed(why) if follow.ready else LaunchFailed(why))
            case NotFound():
                if follow.ready:
                    self.over(NodeLost(f"the engine of rank {rank} is gone"))
                else:
                    self._refused(rank, LaunchFailed(str(message)))
            case SetupError():
                self._refused(rank, message)
            case NotAuthorized():
                self.over(message)

    def _refused(self, rank: int, error: TandemError) -> None:
        head = self.head
        head.roster.failed(self._node(rank).name, head.world.now())
        self.over(error)

    def _unreached(self, rank: int, stream: Stream | None) -> None:
        follow, head = self._follows[rank], self.head
        if self._error is not None or (stream is not None and follow.stream is not stream):
            return
        follow.stream = None
        name = self._node(rank).name
        if not follow.ready:
            self._refused(rank, NodeUnreachable(f"{name} does not answer"))
        elif min(head.world.now() - follow.heard, head.coordinator.silent_for()) > REACH_SECONDS:
            self.over(NodeLost(f"the engine of rank {rank} on {name} is gone"))
        else:

            def again() -> None:
                if self._error is None and follow.stream is None:
                    self._call(rank, self._attach(rank))

            head.after(RETRY_SECONDS, again)

    # Sessions

    def _connect(self) -> None:
        """One after the other."""
        rank = len(self.lines)
        head, spec = self.head, self._places[rank].spec
        hello = Hello(spec.epoch, head.incarnation, VERSIONS, DIGEST, spec.plan)
        engine = head.groups.of(spec).engines[rank]
        line = Line(
            head, head.machine.network, engine, hello, self._opened, self._result, self.over
        )
        self.lines.append(line)
        line.open()

    def _opened(self, theirs: Hello) -> None:
        self._hellos.append(theirs)
        if len(self._hellos) < len(self._places):
            self._connect()
            return
        try:
            check_taken([hello.facts for hello in self._hellos])
        except EpochEnded as error:
            self.over(error)
            return
        head = self.head
        self.running = True
        self._say(f"begins epoch {self.number} on {len(self.lines)}")
        head.coordinator.limits = head.machine.limits
        head.epochs.begun()
        head.coordinator.begin(Epoch(self.number), trimmable=head.machine.trimmable)
        head.pump()

    def send(self, step: Step) -> None:
        for line in self.lines:
            if self.head.doomed and self.head.world.chance(0.5):
                self.head.die()
                return
            line.send(step)

    def _result(self) -> None:
        head = self.head
        while self._error is None and all(line.results for line in self.lines):
            results = [line.results.popleft() for line in self.lines]
            try:
                result = agreed(results)
                head.machine.checks.apply(head, self, result)
                head.coordinator.apply(result, results)
            except ProtocolError as error:
                self.over(error)
                return
            head.machine.checks.applied(head)
            head.pump()

    # The end

    def over(self, error: TandemError) -> None:
        """The first reason counts."""
        if self._error is not None:
            return
        self._error = error
        head = self.head
        self._say(f"epoch {self.number} is over: {type(error).__name__}: {error}")
        head.machine.checks.over(head, self, error)
        if self.running:
            head.coordinator.end(error)
        for line in self.lines:
            line.close()
        for follow in self._follows:
            if follow.stream is not None:
                follow.stream.close(0)
                follow.stream = None
        nodes = [head.nodes[member.id] for member in self.members]
        if isinstance(error, NotAuthorized):
            self._gone(error)  # they are another's now
            return
        answers: list[NotAuthorized | None] = []

        def stopped(refusal: NotAuthorized | None) -> None:
            answers.append(refusal)
            if len(answers) == len(nodes):
                self._gone(next(filter(None, answers), error))

        for node in nodes:
            self._stop(node, self.secret, stopped)

    def _stop(
        self, node: Node, secret: str, answer: Callable[[NotAuthorized | None], None]
    ) -> None:
        """End the engines of an epoch there."""

        def end() -> NotAuthorized | None:
            agent, incarnation = node.agent, self.head.incarnation
            return agent.stop_epoch(secret, incarnation) if agent is not None else None

        self.head.machine.network.ask(
            self.head,
            node.name,
            lambda: node.agent,
            end,
            answer,
            STOP_SECONDS,
        )

    def _gone(self, error: TandemError) -> None:
        head = self.head
        if isinstance(error, EpochEnded | ProtocolError):
            head.ended(self, error)
        else:
            assert isinstance(error, SetupError)
            head.failed(error)

    def _say(self, what: str) -> None:
        self.head.world.say(self.head.name, what)
