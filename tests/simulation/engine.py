"""Engines and the group that they form, with the product's own protocol (engine_protocol.py)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cluster.core.cluster import EngineFacts, Hello, LaunchSpec
from cluster.core.config import Limits
from cluster.core.engine_protocol import PENDING, Fence, StepWindow
from cluster.core.errors import NotAuthorized, ProtocolError, TandemError
from cluster.core.plan import Step, StepResult
from cluster.core.versions import Versions
from cluster.wire.line import ACK_SECONDS
from tests.simulation.checks import Checks, Violated
from tests.simulation.model import POISON
from tests.simulation.network import Network, Stream
from tests.simulation.world import Process, World
from tests.unit.scheduler.reference import Cost, ReferenceEngine

if TYPE_CHECKING:
    from tests.simulation.node import Agent

VERSIONS = Versions(1, "simulated", "", "")
EXIT_SECONDS = 0.2
RESET_SECONDS = 0.01
"""From the failure of a neighbour until its connection says so."""


@dataclass(frozen=True)
class Machine:
    """What all engines of a run have in common."""

    network: Network
    checks: Checks
    limits: Limits
    cost: Cost
    trimmable: bool
    replicas: int


@dataclass(frozen=True)
class Frame:
    """A message of a session: see session.py. No body when it only acknowledges."""

    number: int
    acknowledged: int
    body: Step | StepResult | None


@dataclass
class Meeting:
    """Ranks that have come to the same place, and wait for the others."""

    first: int
    step: Step
    plan: int
    """Incarnation of the coordinator that it comes from."""
    ranks: list[int] = field(default_factory=list)


class Group:
    """The data plane of one epoch: what all ranks do together, or not at all.

    Slots are kept once for all ranks: a rank is only let into a step that all take at the same
    place in the order of their steps, so they hold the same on each.
    """

    def __init__(self, world: World, machine: Machine, spec: LaunchSpec) -> None:
        self._world = world
        self._machine = machine
        self._spec = spec
        self.engines: dict[int, Engine] = {}
        """By rank, those that were started."""
        self._joined: dict[int, Meeting] = {}
        """By place in the order of all steps."""
        self._plan = 0
        self.slots = self._empty()
        self._torn = False
        self.differing: set[int] = set()
        """Steps of this plan after which a rank's slots held something else than the others'."""

    def _empty(self) -> ReferenceEngine:
        machine = self._machine
        return ReferenceEngine(
            self._spec.epoch,
            trimmable=machine.trimmable,
            cost=machine.cost,
            limits=machine.limits,
        )

    def live(self, plan: int) -> int:
        """Slots that a coordinator's plan has taken."""
        return len(self.slots.live) if plan == self._plan else 0

    def join(self, rank: int, place: int, step: Step, plan: int) -> None:
        """A rank has come to the `place`th of all its steps, and waits there for the others."""
        meeting = self._joined.get(place)
        if meeting is None:
            meeting = self._joined[place] = Meeting(rank, step, plan)
        elif meeting.plan != plan or (meeting.step is not step and meeting.step != step):
            raise Violated(
                2,
                f"rank {rank} computes step {step.seq} of plan {plan} in place {place}, "
                f"rank {meeting.first} step {meeting.step.seq} of plan {meeting.plan}",
            )
        meeting.ranks.append(rank)
        if self._torn:
            self._tear()
        elif len(meeting.ranks) == self._spec.plan.world:
            del self._joined[place]
            self._meet(step, plan)

    def _meet(self, step: Step, plan: int) -> None:
        """All are there. While a cable is pulled, they wait for it."""
        hosts = [engine.host for engine in self.engines.values()]
        network = self._machine.network
        if (network.blocked or network.dark) and not all(
            network.reaches(one, other) and network.reaches(other, one)
            for one, other in zip(hosts, hosts[1:] + hosts[:1], strict=True)
            if one != other
        ):
            self._world.after(0.1, lambda: self._meet(step, plan))
        elif not self._torn:
            self._compute(step, plan)

    def _compute(self, step: Step, plan: int) -> None:
        if plan != self._plan:
            self.slots, self._plan = self._empty(), plan
            self.differing.clear()
        if any(POISON in chunk.tokens for chunk in step.chunks):
            self._machine.checks.crash(self._spec.secret)
            self.engines[0].exit(-11)
            return
        try:
            result = self.slots.take(step)
        except AssertionError as error:
            raise Violated(2, f"step {step.seq} can't be applied: {error}") from error
        self.slots.unanswered.clear()
        engines = self.engines.values()
        slow = max(engine.slow for engine in engines) * self._world.between(0.9, 1.1)
        result = replace(
            result,
            decode_seconds=result.decode_seconds * slow,
            chunk_seconds=tuple(seconds * slow for seconds in result.chunk_seconds),
        )
        seconds = result.decode_seconds + sum(result.chunk_seconds)
        others = replace(result, decoded=(), prefilled=(), counts=(), likelihoods=())
        for rank, engine in self.engines.items():
            done = others if rank else result
            if engine.drifted:
                done = replace(done, digest=done.digest ^ (1 + rank))
                self.differing.add(step.seq)
            engine.after(seconds + 1e-4, lambda engine=engine, done=done: engine.done(done))

    def tear(self, *, quietly: bool) -> None:
        """One of them is gone. When its whole machine is, the others wait for ever."""
        if not quietly and not self._torn:
            self._torn = True
            self._world.after(RESET_SECONDS, self._tear)

    def _tear(self) -> None:
        waiting = {rank for meeting in self._joined.values() for rank in meeting.ranks}
        for rank in sorted(waiting):
            engine = self.engines[rank]
            if not engine.failing:
                engine.after(RESET_SECONDS, lambda engine=engine: engine.fail("a rank is gone"))


class Engine(Process):
    """One rank's process."""

    slow = 1.0
    drifted = False

    def __init__(
        self, world: World, machine: Machine, host: str, spec: LaunchSpec, group: Group
    ) -> None:
        super().__init__(world, f"e{spec.epoch}.{spec.plan.rank}", host)
        self.spec = spec
        self.agent: Agent | None = None
        self.failing = False
        self._machine = machine
        self._group = group
        group.engines[spec.plan.rank] = self
        self._fence: Fence[StepResult] = Fence()
        self._window = StepWindow(spec.epoch)
        self._newest = 0
        """Incarnation of the newest coordinator that was here."""
        self._inbox: deque[Step | int] = deque()
        """Where a session begins, the incarnation of its coordinator."""
        self._busy = False
        self._place = 0
        self._plans = 0
        """How many coordinators it has listened to."""
        self._plan = 0
        """Incarnation of the one whose steps it executes."""
        self._stream: Stream | None = None
        self._acking = False

    # The endpoint

    def accept(self, stream: Stream) -> None:
        """A coordinator has called."""
        stream.hear[1] = lambda message: self._greet(stream, message)

    def _greet(self, stream: Stream, theirs: object) -> None:
        assert isinstance(theirs, Hello)
        facts = EngineFacts(
            self._machine.trimmable, 0, 0, self._window.answered, taken=self._window.taken
        )
        mine = Hello(self.spec.epoch, 0, VERSIONS, self.spec.model_digest, self.spec.plan, facts)
        before = self._fence.incarnation
        try:
            begins = self._fence.admit(mine, theirs)
        except TandemError as error:
            stream.send(1, error)
            stream.close(1)
            return
        if theirs.incarnation < self._newest:
            raise Violated(2, f"{self.name} lets in a coordinator that was replaced")
        self._newest = theirs.incarnation
        if self._stream is not None:
            if before != theirs.incarnation:
                self._stream.send(1, NotAuthorized(f"coordinator {before} was replaced"))
            self._stream.close(1)
        if begins:
            if before:
                self._window.reset()
            self._plans += 1
            self._inbox.append(theirs.incarnation)
            self._work()
        self._stream = stream
        session = self._fence.session
        stream.hear[1] = lambda message: self._hear(stream, message)
        stream.send(1, replace(mine, incarnation=theirs.incarnation, received=session.received))
        self._flush()

    def _hear(self, stream: Stream, message: object) -> None:
        assert isinstance(message, Frame)
        session = self._fence.session
        try:
            if session.receive(message.number, message.acknowledged):
                assert isinstance(message.body, Step)
                self._window.take(message.body)
                self._inbox.append(message.body)
                if len(self._inbox) > PENDING + self._plans:
                    raise Violated(10, f"{self.name} has {len(self._inbox)} steps to do")
                self._work()
        except TandemError as error:
            stream.send(1, error)
            stream.close(1)
            return
        if session.due:
            self._acknowledge()
        elif session.owed and not self._acking:
            self._acking = True
            self.after(ACK_SECONDS, self._attend)

    def _attend(self) -> None:
        self._acking = False
        if self._fence.session.owed:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._stream is not None:
            self._stream.send(1, Frame(0, self._fence.session.acknowledge(), None))

    def _flush(self) -> None:
        while self._stream is not None and self._stream.open:
            said = self._fence.session.next()
            if said is None:
                break
            self._stream.send(1, Frame(*said))

    # The step loop

    def _work(self) -> None:
        while self._inbox and not self._busy:
            step = self._inbox.popleft()
            if isinstance(step, Step):
                self._busy = True
                self._place += 1
                self._group.join(self.spec.plan.rank, self._place, step, self._plan)
            else:
                self._plan = step

    def done(self, result: StepResult) -> None:
        """The device has done a step."""
        self._busy = False
        if self._window.answer():
            session = self._fence.session
            if session.kept >= session._window:
                raise Violated(10, f"{self.name} keeps {session.kept} results")
            session.put(result)
            self._flush()
        self._work()

    # Its end

    def drift(self) -> None:
        """Something has changed what its slots hold."""
        self.drifted = True

    def fail(self, why: str) -> None:
        """A local exception: report, then exit."""
        if self.failing:
            return
        self.failing = True
        self._busy = True
        self.world.say(self.name, f"fails: {why}")
        if self._stream is not None:
            self._stream.send(1, ProtocolError(f"{self.name}: {why}"))
        self.after(EXIT_SECONDS, lambda: self.exit(1))

    def exit(self, code: int) -> None:
        """The process ends; the rest of its machine goes on."""
        if self.alive:
            self.world.say(self.name, f"exits with {code}")
            self.die()
            if self.agent is not None:
                self.agent.do(lambda: self.agent is not None and self.agent.exited(self, code))

    def die(self, *, quietly: bool = False) -> None:
        if self.alive:
            super().die(quietly=quietly)
            self._group.tear(quietly=quietly)
