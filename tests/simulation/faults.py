"""What goes wrong, at any moment; and how all of it is mended in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from tests.simulation.engine import Engine

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


class Faults:
    """Throws them at a cluster until `mend`."""

    def __init__(self, cluster: Cluster, every: float, only: Collection[str] = ()) -> None:
        """One about every so many seconds; only some kinds, if they are named."""
        self._cluster = cluster
        self._world = cluster.world
        self._network = cluster.network
        self._every = every
        self._on = True
        self.kinds: dict[str, tuple[int, Callable[[], str]]] = {
            "cut": (8, self._cut),
            "block": (4, self._block),
            "delay": (3, self._delay),
            "loss": (2, self._loss),
            "kill an engine": (4, self._kill_engine),
            "fail an engine": (3, self._fail_engine),
            "stop an engine": (4, self._stop_engine),
            "slow an engine": (3, self._slow_engine),
            "drift": (1, self._drift),
            "kill an agent": (3, self._kill_agent),
            "stop an agent": (3, self._stop_agent),
            "power": (3, self._power),
            "drain": (2, self._drain),
            "kill the head": (2, self._kill_head),
            "replace the head": (1, self._replace_head),
        }
        if only:
            self.kinds = {kind: self.kinds[kind] for kind in only}
        self._later()

    def mend(self) -> None:
        """No more of them, and what is broken goes on."""
        self._on = False
        cluster, network = self._cluster, self._network
        network.blocked.clear()
        network.dark.clear()
        network.slow.clear()
        network.loss = 0.0
        for node in cluster.nodes:
            for engine in node.engines:
                engine.slow = 1.0
                engine.go_on()
            if node.agent is not None:
                node.agent.go_on()
            node.start()
            cluster.drain(node.name, draining=False)
        cluster.one_head()

    def _later(self) -> None:
        self._world.after(self._world.random.expovariate(1 / self._every), self._throw)

    def _throw(self) -> None:
        if not self._on:
            return
        kinds = list(self.kinds)
        weights = [self.kinds[kind][0] for kind in kinds]
        (kind,) = self._world.random.choices(kinds, weights)
        what = self.kinds[kind][1]()
        if what:
            self._world.say("", f"{kind}: {what}")
        self._later()

    def _for(self, low: float, high: float, mend: Callable[[], object]) -> float:
        """Mended by itself after a while, most often a short one."""
        seconds = low * (high / low) ** self._world.random.random()
        self._world.after(seconds, lambda: mend() if self._on else None)
        return seconds

    def _engine(self) -> Engine | None:
        engines = [engine for node in self._cluster.nodes for engine in node.engines]
        return self._world.random.choice(engines) if engines else None

    def _host(self) -> str:
        return self._world.random.choice(self._cluster.hosts)

    # The network

    def _cut(self) -> str:
        """Connections break."""
        streams = list(self._network.streams)
        if not streams:
            return ""
        count = self._world.random.choice((1, 1, 2, len(streams)))
        for stream in self._world.random.sample(streams, min(count, len(streams))):
            stream.cut()
        return f"{count} streams"

    def _block(self) -> str:
        here, there = self._host(), self._host()
        if here == there:
            return ""
        ways = self._world.random.choice(([(here, there)], [(here, there), (there, here)]))
        self._network.blocked.update(ways)
        seconds = self._for(0.1, 25.0, lambda: self._network.blocked.difference_update(ways))
        return f"{' and '.join(f'{a} to {b}' for a, b in ways)} for {seconds:.1f} s"

    def _delay(self) -> str:
        host, factor = self._host(), self._world.random.choice((30.0, 300.0, 3000.0))
        self._network.slow[host] = factor
        seconds = self._for(0.1, 10.0, lambda: self._network.slow.pop(host, None))
        return f"{host} {factor:.0f} times for {seconds:.1f} s"

    def _loss(self) -> str:
        self._network.loss = 0.5

        def mend() -> None:
            self._network.loss = 0.0

        return f"half of all single messages for {self._for(1.0, 10.0, mend):.1f} s"

    # Engines

    def _kill_engine(self) -> str:
        engine = self._engine()
        if engine is None:
            return ""
        self._cluster.checks.crash(engine.spec.secret)
        engine.exit(-9)
        return engine.name

    def _fail_engine(self) -> str:
        engine = self._engine()
        if engine is None:
            return ""
        self._cluster.checks.crash(engine.spec.secret)
        engine.do(lambda: engine.fail("a local exception"))
        return engine.name

    def _stop_engine(self) -> str:
        engine = self._engine()
        if engine is None:
            return ""
        engine.stop()
        return f"{engine.name} for {self._for(0.1, 20.0, engine.go_on):.1f} s"

    def _slow_engine(self) -> str:
        engine = self._engine()
        if engine is None:
            return ""
        engine.slow = 10.0
        self._cluster.checks.slowed = True

        def mend() -> None:
            engine.slow = 1.0

        return f"{engine.name} for {self._for(0.5, 20.0, mend):.1f} s"

    def _drift(self) -> str:
        engine = self._engine()
        if engine is None or engine.spec.plan.world < 2:
            return ""
        self._cluster.checks.crash(engine.spec.secret)
        engine.drift()
        return engine.name

    # Machines

    def _kill_agent(self) -> str:
        node = self._world.random.choice(self._cluster.nodes)
        if node.agent is None or not node.agent.alive:
            return ""
        node.agent.die()
        return f"{node.name} for {self._for(0.5, 10.0, node.start):.1f} s"

    def _stop_agent(self) -> str:
        node = self._world.random.choice(self._cluster.nodes)
        if node.agent is None or not node.agent.alive:
            return ""
        node.agent.stop()
        return f"{node.name} for {self._for(0.5, 40.0, node.agent.go_on):.1f} s"

    def _power(self) -> str:
        node = self._world.random.choice(self._cluster.nodes)
        if node.agent is None or not node.agent.alive:
            return ""
        node.agent.die(quietly=True)
        self._network.dark.add(node.name)

        def mend() -> None:
            self._network.dark.discard(node.name)
            node.start()

        return f"{node.name} for {self._for(1.0, 25.0, mend):.1f} s"

    def _drain(self) -> str:
        name = self._world.random.choice(self._cluster.nodes).name
        self._cluster.drain(name, draining=True)
        seconds = self._for(0.5, 15.0, lambda: self._cluster.drain(name, draining=False))
        return f"{name} for {seconds:.1f} s"

    # The coordinator

    def _kill_head(self) -> str:
        head = self._cluster.head
        if head is None or not head.alive:
            return ""
        if self._world.chance(0.5):
            head.doomed = True
        else:
            head.die()
        return f"{head.name} for {self._for(0.2, 15.0, self._cluster.start_head):.1f} s"

    def _replace_head(self) -> str:
        """It is cut off, or stands still, and another one takes its place; then it is back."""
        head = self._cluster.head
        if head is None or not head.alive:
            return ""
        for stream in list(self._network.streams):
            if self._world.chance(0.8):
                stream.cut()
        head.stop()
        self._cluster.start_head()
        self._world.after(self._world.between(20.0, 30.0), head.die)
        return f"{head.name}, which is back after {self._for(0.2, 10.0, head.go_on):.1f} s"
