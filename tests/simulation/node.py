"""Machines with their agents: they start engines, tell of them, and kill those of nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster.core.cluster import Alive, EngineEvent, Exited, LaunchSpec, Ready, Started
from cluster.core.errors import NotAuthorized, TandemError
from cluster.core.ids import Rank
from cluster.node.launches import Launches
from tests.simulation.engine import Engine, Group, Machine
from tests.simulation.network import Stream
from tests.simulation.world import Process, World

ORPHAN_GRACE = 10.0
BEAT_SECONDS = 1.0
KILL_SECONDS = 0.05


@dataclass(frozen=True)
class Attach:
    """Asks for news of an engine that runs."""

    secret: str
    rank: Rank
    incarnation: int


@dataclass(eq=False)
class Launch:
    """One engine of an agent."""

    spec: LaunchSpec
    engine: Engine = field(init=False)
    holders: int = 0
    ready: bool = False
    patience: int = 0
    """Grows whenever somebody holds it, so that a grace that has begun is over."""
    streams: list[Stream] = field(default_factory=list)
    """Of those who are told of it."""


class Groups:
    """The data planes of all epochs, by secret."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world = world
        self._machine = machine
        self.all: dict[str, Group] = {}

    def of(self, spec: LaunchSpec) -> Group:
        if spec.secret not in self.all:
            self.all[spec.secret] = Group(self._world, self._machine, spec)
        return self.all[spec.secret]


class Agent(Process):
    """The agent's process, from one start to the next."""

    def __init__(self, world: World, node: Node, machine: Machine, groups: Groups) -> None:
        super().__init__(world, node.name, node.name)
        self.incarnation = node.starts
        self.launches: Launches[Launch] = Launches(node.name)
        self._node = node
        self._machine = machine
        self._groups = groups
        self.every(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        for listener in self._node.listeners:
            if listener.alive:
                heard = listener.heard
                self._machine.network.single(
                    self.host,
                    listener.host,
                    lambda heard=heard, listener=listener: listener.do(
                        lambda: heard(self.name, self.incarnation)
                    ),
                )

    # What coordinators ask

    def accept(self, stream: Stream) -> None:
        """A call for one engine: a LaunchSpec or an Attach comes first."""
        stream.hear[1] = lambda message: self._called(stream, message)

    def _called(self, stream: Stream, message: object) -> None:
        try:
            if isinstance(message, LaunchSpec):
                launch = self._launch(message)
            else:
                assert isinstance(message, Attach)
                launch = self.launches.find(message.secret, message.rank, message.incarnation)
        except TandemError as error:
            stream.send(1, error)
            stream.close(1)
            return
        launch.holders += 1
        launch.patience += 1
        stream.broken[1] = lambda: self._let_go(launch)
        self._tell(stream, launch)

    def _launch(self, spec: LaunchSpec) -> Launch:
        launch = Launch(spec)
        self.launches.admit(launch)
        group = self._groups.of(spec)
        engine = launch.engine = Engine(self.world, self._machine, self.host, spec, group)
        engine.agent = self
        engine.after(self.world.between(0.3, 2.0), lambda: self._ready(launch))
        return launch

    def _ready(self, launch: Launch) -> None:
        launch.ready = True

    def _tell(self, stream: Stream, launch: Launch) -> None:
        """News of an engine, to one who holds it: all there is now, and then what comes."""
        said: list[EngineEvent] = [Started(1)]
        stream.send(1, said[0])

        def look() -> None:
            if not stream.open:
                return
            if launch.ready and len(said) == 1:
                said.append(Ready(launch.engine.name, 0.0))
                stream.send(1, said[1])
            stream.send(1, Alive(0, 0.0))
            self.after(0.25 if len(said) == 1 else 1.0, look)

        look()
        launch.streams.append(stream)

    def exited(self, engine: Engine, code: int) -> None:
        """The agent has reaped it."""
        for launch in self.launches:
            if launch.engine is engine:
                self.launches.forget(launch)
                for stream in launch.streams:
                    stream.send(1, Exited(code, "simulated"))
                    stream.close(1)

    def _let_go(self, launch: Launch) -> None:
        launch.holders -= 1
        patience = launch.patience

        def give_up() -> None:
            if not launch.holders and launch.patience == patience:
                self.kill(launch)

        if not launch.holders:
            self.after(ORPHAN_GRACE, give_up)

    def kill(self, launch: Launch) -> None:
        if launch.engine.alive:
            launch.engine.exit(-9)

    def stop_epoch(self, secret: str, incarnation: int) -> NotAuthorized | None:
        """Kill every engine of an epoch, unless it is that of a newer coordinator."""
        try:
            launches = self.launches.of(secret, incarnation)
        except NotAuthorized as refusal:
            return refusal
        for launch in launches:
            self.kill(launch)
        return None

    def orphans(self) -> list[LaunchSpec]:
        return [
            replace(launch.spec, incarnation=self.launches.incarnation(launch))
            for launch in self.launches
            if not launch.holders
        ]

    def die(self, *, quietly: bool = False) -> None:
        """Its engines read the end of their input, and go."""
        if self.alive:
            super().die(quietly=quietly)
            for launch in self.launches:
                launch.engine.agent = None
                if launch.engine.alive:
                    launch.engine.die(quietly=quietly)


class Listener(Process):
    """Who hears signs of life."""

    def heard(self, name: str, incarnation: int) -> None: ...


class Node:
    """One machine, with room for one rank."""

    ranks = 1

    def __init__(self, world: World, name: str, machine: Machine, groups: Groups) -> None:
        self.name = name
        self.starts = 0
        self.listeners: list[Listener] = []
        self.agent: Agent | None = None
        self._make: Callable[[], Agent] = lambda: Agent(world, self, machine, groups)
        self.start()

    def start(self) -> None:
        """Its agent is started, again."""
        if self.agent is None or not self.agent.alive:
            self.starts += 1
            self.agent = self._make()

    @property
    def engines(self) -> list[Engine]:
        """Those that live."""
        launches = self.agent.launches if self.agent is not None else ()
        return [launch.engine for launch in launches if launch.engine.alive]
