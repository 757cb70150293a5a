"""One run: a cluster, its clients, faults for a while, and then none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cluster.core.config import Limits
from tests.simulation.checks import Checks, Violated, require
from tests.simulation.client import Client, Wish, order
from tests.simulation.engine import Machine
from tests.simulation.faults import Faults
from tests.simulation.head import Head
from tests.simulation.model import POISON
from tests.simulation.network import Network
from tests.simulation.node import Groups, Node
from tests.simulation.world import World
from tests.unit.scheduler.reference import VOCABULARY, Cost

ENOUGH = 400.0
"""Seconds after the last fault within which every request is over."""
QUIET = 40.0
"""More than the longest pause between attempts to form a group."""


@dataclass(frozen=True)
class Plan:
    """What a run is like."""

    nodes: int
    wishes: tuple[Wish, ...]
    limits: Limits
    cost: Cost
    trimmable: bool
    replicas: int
    """Groups of the model, side by side."""
    seconds: float
    """Until the faults stop."""
    every: float
    """Seconds from one fault to the next, about."""


class Cluster:
    """All of it."""

    def __init__(
        self, seed: int, make: Callable[[World], Plan] | None = None, *, only: Collection[str] = ()
    ) -> None:
        """`only` names the faults, where not all kinds are wanted."""
        self.world = World(seed)
        self.plan = plan = (make or small)(self.world)
        self.network = Network(self.world)
        self.checks = Checks(plan.cost)
        self.machine = Machine(
            self.network, self.checks, plan.limits, plan.cost, plan.trimmable, plan.replicas
        )
        self._groups = Groups(self.world, self.machine)
        self.nodes = [
            Node(self.world, f"n{i}", self.machine, self._groups) for i in range(plan.nodes)
        ]
        self.head: Head | None = None
        self._heads: list[Head] = []
        self.start_head()
        self.clients = [
            Client(self.world, self.checks, wish, lambda: self.head) for wish in plan.wishes
        ]
        self.faults = Faults(self, plan.every, only)

    @property
    def hosts(self) -> list[str]:
        assert self.head is not None
        return [self.head.host, *(node.name for node in self.nodes)]

    def start_head(self) -> None:
        """A coordinator, in the place of one that is gone or does not answer."""
        if self.head is not None and self.head.alive and not self.head.stopped:
            return
        incarnation = len(self._heads) + 1
        name = f"h{incarnation}"
        head = Head(self.world, name, incarnation, self.machine, self.nodes, self._groups)
        self.head = head
        self._heads.append(head)
        head.ends["init"] = lambda quietly: self.world.after(1.0, self._restart)

    def _restart(self) -> None:
        """What keeps a service running does so."""
        if self.head is not None and not self.head.alive:
            self.start_head()

    def one_head(self) -> None:
        """Those that were replaced are gone."""
        for head in self._heads:
            if head is not self.head:
                head.die()
        if self.head is not None:
            self.head.go_on()
            self.head.doomed = False
        self.start_head()

    def drain(self, name: str, *, draining: bool) -> None:
        head = self.head
        node = head.roster.find(name) if head is not None else None
        if head is not None and node is not None:
            node.draining = draining
            head.changed()

    def run(self) -> None:
        """Raises Violated."""
        world, plan = self.world, self.plan
        world.run(plan.seconds)
        self.faults.mend()
        world.say("", "all is mended")
        done = world.run(ENOUGH, lambda: all(client.over for client in self.clients))
        late = [client.wish.name for client in self.clients if not client.over]
        require(9, done, f"{late} are not over {ENOUGH:.0f} s after the last fault")
        world.run(QUIET)
        assert self.head is not None
        require(7, self.head.serving, "a group does not serve after the last fault")
        self.checks.left(self.head)

    @property
    def log(self) -> list[str]:
        return self.world.log


def small(world: World) -> Plan:
    """A few machines and requests, all of them drawn; in a third of all runs, two groups."""
    return _small(world, 2 if world.chance(1 / 3) else 1)


def replicated(world: World) -> Plan:
    """The same, always with two groups."""
    return _small(world, 2)


def _small(world: World, replicas: int) -> Plan:
    random = world.random
    nodes = max(replicas, random.choice((1, 2, 2, 3, 4)))
    trimmable = world.chance(0.8)
    seconds = random.choice((6.0, 15.0, 30.0))
    limits = Limits(
        sequences=random.randint(1, 4),
        queue=random.randint(1, 5),
        parked=random.randint(0, 3),
        kv_tokens=random.choice((400, 700, 4000)),
        kv_ahead=random.choice((8, 1024)),
        draft=random.choice((0, 0, 3)),
        queue_seconds=random.choice((8.0, 600.0, 600.0)),
        recovery_seconds=random.choice((10.0, 120.0, 120.0)),
        request_seconds=random.choice((12.0, 7200.0, 7200.0)),
    )
    cost = Cost(token=random.choice((2e-4, 3e-3)), iteration=random.choice((4e-3, 0.03, 0.15)))
    count = random.randint(2, 7)
    burst = world.chance(0.2)
    poison = random.randrange(count) if world.chance(0.15) else -1
    wishes = tuple(
        _wish(world, i, 0.5 if burst else seconds * 0.9, poison=i == poison)
        for i in range(2 * count if burst else count)
    )
    every = seconds / random.randint(2, 8)
    return Plan(nodes, wishes, limits, cost, trimmable, replicas, seconds, every)


def large(world: World, nodes: int = 64, requests: int = 10_000) -> Plan:
    """Many machines and requests."""
    random = world.random
    seconds = 60.0
    limits = Limits(
        sequences=96, queue=400, parked=16, kv_tokens=20_000, kv_ahead=16, draft=0,
        queue_seconds=600.0,
    )  # fmt: skip
    cost = Cost(token=1e-4, iteration=0.03, row=1e-5)

    def wish(number: int) -> Wish:
        prompt = tuple(random.randrange(1, VOCABULARY) for _ in range(random.randint(2, 8)))
        wanted = order(prompt, random.randint(1, 6), number, ignore_eos=True)
        hangs_up = world.between(0.0, 2.0) if world.chance(0.05) else None
        return Wish(f"r{number}", wanted, 3.0 + seconds * 0.9 * random.random(), hangs_up)

    wishes = tuple(wish(number) for number in range(requests))
    return Plan(nodes, wishes, limits, cost, True, 1, seconds, 6.0)


def _wish(world: World, number: int, seconds: float, *, poison: bool) -> Wish:
    random = world.random
    base = random.randrange(3)
    length = random.choice((3, 12, 30, 30, 300, 900))
    prompt = [1 + (7 * base + 5 * i) % (VOCABULARY - 1) for i in range(length)]
    prompt[length // 2 :] = [1 + random.randrange(VOCABULARY - 1) for _ in prompt[length // 2 :]]
    if poison:
        prompt[-1] = POISON
    stop = (chr(0x40 + random.randrange(1, VOCABULARY)),) if world.chance(0.15) else ()
    return Wish(
        name=f"r{number}",
        order=order(
            tuple(prompt),
            random.choice((1, 5, 12, 25)),
            random.randrange(5),
            stop=stop,
            ignore_eos=world.chance(0.5),
            cache=world.chance(0.8),
        ),
        at=3.0 + seconds * random.random(),
        cancels=world.between(0.0, 6.0) if world.chance(0.2) else None,
        looks=0.7 if world.chance(0.2) else None,
        poison=poison,
    )


def run(seed: int) -> Cluster:
    """Raises Violated with the seed in it."""
    cluster = Cluster(seed)
    try:
        cluster.run()
    except Violated as error:
        error.add_note(f"seed {seed}; replay it with: python -m tests.simulation {seed} --trace")
        error.add_note("\n".join(cluster.log[-30:]))
        raise
    return cluster
