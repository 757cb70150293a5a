"""The agent of one machine: answers the Node service and owns every engine it starts.

No engine outlives its Launch call by more than the orphan grace, and none outlives the agent.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from cluster.core.cluster import (
    Address,
    Blas,
    EngineEvent,
    LaunchSpec,
    Loading,
    NodeDescription,
    Ready,
)
from cluster.core.errors import LaunchFailed, NotFound, TandemError
from cluster.core.facts import Facts
from cluster.core.ids import Rank
from cluster.core.link import Listening, ProbeOrder, ProbeResult
from cluster.core.manifest import Manifest, Wanted, is_digest
from cluster.core.versions import versions
from cluster.discovery.advert import Advert, cluster_mark
from cluster.model.store import models_folder
from cluster.node.blas import engine_environment, find_blas
from cluster.node.cutter import CUT_COMMAND
from cluster.node.engine_process import ENGINE_COMMAND, EngineProcess, Say
from cluster.node.fetch import Fetcher
from cluster.node.hardware import Hardware, node_id, read_hardware
from cluster.node.incarnation import next_incarnation
from cluster.node.launches import Launches
from cluster.node.library import Library
from cluster.node.links import read_addresses
from cluster.node.narrate import ALIVE_SECONDS, narrate
from cluster.node.ports import Ports
from cluster.node.probe import MOST_SECONDS, allowed, listeners, probe
from cluster.node.surveyor import Surveyor
from cluster.trust.certificate import fingerprint, load
from cluster.trust.identity import IdentityFile
from cluster.wire.node_client import NodeClient
from cluster.wire.security import split_address

MOST_MODELS = 16
"""Of which is remembered how an engine comes up."""
MOST_LISTENING = 4
"""Calls that hold listeners for probes."""

SILENCE_SECONDS = 120.0
"""An engine that loads says something at least this often."""
LEAST_SILENCE, SILENCE_FACTOR = 15.0, 5.0
"""One that was loaded here before is given as many times its longest silence then, but at least
so many seconds: in a recovery, requests wait for it."""


@dataclass(eq=False, slots=True)
class _Launch:
    """One engine, from the moment it is asked for until it is reaped."""

    spec: LaunchSpec
    engine: EngineProcess | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine exists or never will."""
    stopped: bool = False
    holders: int = 0
    """Calls that are told of it."""
    fetching: asyncio.Task[Path] | None = None
    """Runs while the weights are on their way to this machine."""
    loading: Loading = field(default_factory=lambda: Loading("fetching weights", 0.0))
    """How far they are."""
    folder: str = ""
    """Of the model, where this agent has found or fetched it."""
    orphan: asyncio.Task[None] | None = None
    """Runs while no call holds the engine."""


class Agent:
    """Implements NodeHandler (cluster/wire/node_server.py)."""

    def __init__(
        self,
        host: str,
        *,
        hardware: Hardware,
        addresses: tuple[Address, ...],
        blas: Blas,
        port: int = 0,
        command: Sequence[str] = ENGINE_COMMAND,
        orphan_grace: float = 10.0,
        silence: float = SILENCE_SECONDS,
        say: Say = lambda line: None,
        kv_dir: str = "",
        incarnation: int = 0,
        identity: IdentityFile | None = None,
        models: Path | None = None,
        cut_command: Sequence[str] = CUT_COMMAND,
    ) -> None:
        """`host` is the one address of this machine on which engines listen; `kv_dir`, if given,
        takes the place of the folder for prefixes that a coordinator names. With an identity the
        machine has that one's id, and engines show its certificate. Models that come from other
        agents are kept in the folder `models`."""
        self.blas = blas
        self.address = ""
        """"host:port" of the Node service; set by whoever starts that."""
        self._host = host
        self._hardware = hardware
        self._addresses = addresses
        self._node_id = node_id(hardware, host, port)
        self._identity = ""
        self._cluster_id = ""
        if identity is not None:
            self._node_id = identity.current().name.id
            self._identity = str(identity.path)
            self._cluster_id = cluster_mark(fingerprint(load(identity.current().authority)))
        self._command = tuple(command)
        self._orphan_grace = orphan_grace
        self._silence = silence
        self._usual: dict[str, float] = {}
        """By model: the longest silence, in seconds, in which an engine of it came up last."""
        self._say = say
        self._kv_dir = kv_dir
        self._incarnation = incarnation
        self._instance = secrets.token_hex(8)
        self._ports = Ports(host)
        self._listening = 0
        self._library = Library(models or models_folder(), cut_command=cut_command)
        self._surveyor = Surveyor(host, models or models_folder(), say)
        connect = functools.partial(NodeClient, identity=identity)
        self._fetcher = Fetcher(self._library, connect, say)
        self._launches: Launches[_Launch] = Launches(self._node_id)
        self._closing = False

    @classmethod
    async def on_this_machine(
        cls, host: str, *, port: int = 0, command: Sequence[str] = ENGINE_COMMAND,
        orphan_grace: float = 10.0, silence: float = SILENCE_SECONDS,
        say: Say = lambda line: None, kv_dir: str = "", identity: IdentityFile | None = None,
    ) -> Agent:  # fmt: skip
        """An agent that has looked at this machine; raises BadConfiguration."""
        hardware, addresses, blas, incarnation = await asyncio.to_thread(
            lambda: (read_hardware(), read_addresses(), find_blas(), next_incarnation())
        )
        return cls(
            host, hardware=hardware, addresses=addresses, blas=blas, port=port, command=command,
            orphan_grace=orphan_grace, silence=silence, say=say, kv_dir=kv_dir,
            incarnation=incarnation,
            identity=identity,
        )  # fmt: skip

    @property
    def engines(self) -> int:
        """Engines that exist or are about to."""
        return len(self._launches)

    def describe(self) -> NodeDescription:
        """What this machine is."""
        h = self._hardware
        return NodeDescription(
            node_id=self._node_id, hostname=h.hostname, chip=h.chip, cores=h.cores,
            memory_bytes=h.memory_bytes, usable_bytes=h.usable_bytes, system=h.system,
            versions=versions(), blas=self.blas, addresses=self._addresses,
            agent_address=self.address, incarnation=self._incarnation,
            boot_id=h.boot_id, instance=self._instance,
        )  # fmt: skip

    def reserve_ports(self, count: int, host: str = "") -> tuple[str, tuple[int, ...]]:
        """`host`, by default this agent's, and ports that were free on it a moment ago."""
        return host or self._host, self._ports.take(count, host)

    async def listen(
        self, hosts: Sequence[str], seconds: float, clients: int
    ) -> AsyncGenerator[Listening, None]:
        """Opens listeners for probes and tells of them; they are open until this is closed or
        `seconds` are over. Raises LaunchFailed when there are too many."""
        if self._listening >= MOST_LISTENING:
            raise LaunchFailed(f"{self._node_id} already listens for {MOST_LISTENING} probings")
        self._listening += 1
        try:
            async with listeners(hosts, seconds, clients) as listening:
                yield listening
                await asyncio.sleep(allowed(seconds, MOST_SECONDS))
        finally:
            self._listening -= 1

    async def probe(self, order: ProbeOrder) -> ProbeResult:
        """Measures the link to another agent's listener."""
        return await probe(order)

    async def survey(self) -> Facts:
        """See NodeHandler. Raises LaunchFailed when the agent is stopping."""
        if self._closing:
            raise LaunchFailed(f"the node agent at {self.address} is stopping")
        own = Advert(
            role="worker", cluster="", cluster_id=self._cluster_id, node_id=self._node_id,
            incarnation=self._incarnation, port=split_address(self.address)[1],
            addresses=tuple(a for a in self._addresses if a.ip == self._host),
        )  # fmt: skip
        specs = (launch.spec for launch in self._launches)
        prefixes = self._kv_dir or next((spec.kv_dir for spec in specs if spec.kv_dir), "")
        return await self._surveyor.survey(own, Path(prefixes) if prefixes else None)

    async def launch(self, spec: LaunchSpec) -> AsyncGenerator[EngineEvent, None]:
        """Starts an engine and tells of its life (`narrate`), after it has fetched the weights
        where they are not on this machine and the spec names sources.

        Closing the generator lets go of the engine: it is killed after the orphan grace, or by
        `stop`.
        """
        launch = self._admit(spec)
        with self._held(launch):
            try:
                try:
                    async with aclosing(self._bring(launch)) as bringing:
                        async for event in bringing:
                            yield event
                    engine = await self._begin(launch)
                finally:
                    launch.begun.set()
                async with aclosing(narrate(engine, self._patience(spec))) as events:
                    async for event in events:
                        if isinstance(event, Ready):
                            self._learn(spec, engine.silent)
                        yield event
            except TandemError:
                await self._end([launch])
                raise

    async def attach(
        self, secret: str, rank: Rank, incarnation: int
    ) -> AsyncGenerator[EngineEvent, None]:
        """Tells of the life of an engine that runs already, for a coordinator whose call broke or
        for the one after it; closing the generator lets go of it. Raises NotFound when there is
        none, NotAuthorized when a newer coordinator has asked for it."""
        launch = self._launches.find(secret, rank, incarnation)
        if launch.engine is None or launch.stopped:
            raise NotFound(
                f"the engine of rank {rank} of epoch {launch.spec.epoch} on {self._node_id} is "
                "not there yet, or was stopped"
            )
        with self._held(launch):
            async with aclosing(narrate(launch.engine, self._silence)) as events:
                async for event in events:
                    yield event

    def orphans(self) -> tuple[LaunchSpec, ...]:
        """What the engines were launched with that no call holds; see NodeHandler."""
        return tuple(
            replace(launch.spec, incarnation=self._launches.incarnation(launch))
            for launch in self._launches
            if launch.orphan and not launch.stopped
        )

    async def stop(self, secret: str, incarnation: int, *, now: bool = False) -> int:
        """Kills every engine of the epoch with that secret; returns how many, once they are gone.
        With `now`, none is let end by itself. Raises NotAuthorized when a newer coordinator has
        asked for that epoch."""
        return await self._end(self._launches.of(secret, incarnation), now=now)

    async def close(self) -> None:
        """Kill every engine and take no more. May be called twice."""
        self._closing = True
        with anyio.CancelScope(shield=True):
            await self._surveyor.close()
            await self._end(self._launches)
            await self._library.close()

    async def has(self, wanted: Wanted) -> int | None:
        """See NodeHandler."""
        return await self._library.has(wanted)

    def manifest(self, wanted: Wanted) -> AsyncGenerator[Loading | Manifest, None]:
        """See NodeHandler."""
        return self._library.manifest(wanted)

    def read_chunk(self, wanted: Wanted, file: str, index: int) -> AsyncGenerator[bytes, None]:
        """See NodeHandler."""
        return self._library.read_chunk(wanted, file, index)

    def _patience(self, spec: LaunchSpec) -> float:
        """Seconds for which an engine may be silent while it loads."""
        usual = self._usual.get(spec.model)
        if usual is None:
            return self._silence
        return min(self._silence, max(LEAST_SILENCE, round(SILENCE_FACTOR * usual)))

    def _learn(self, spec: LaunchSpec, silent: float) -> None:
        """An engine of that model has come up; the models loaded last are remembered."""
        self._usual.pop(spec.model, None)
        self._usual[spec.model] = silent
        if len(self._usual) > MOST_MODELS:
            del self._usual[next(iter(self._usual))]

    def _admit(self, spec: LaunchSpec) -> _Launch:
        """A place for the engine of `spec`; raises LaunchFailed when there is none, or
        NotAuthorized."""
        if self._closing:
            raise LaunchFailed(f"the node agent at {self.address} is stopping")
        launch = _Launch(spec)
        self._launches.admit(launch)
        return launch

    async def _bring(self, launch: _Launch) -> AsyncGenerator[EngineEvent, None]:
        """Set the launch's folder, once the model is on this machine; progress meanwhile. A model
        that nobody has is left to the engine, which asks the Hub."""
        spec = launch.spec
        if not is_digest(spec.model_digest):
            return
        wanted = Wanted(spec.model, spec.model_digest)
        folder = await self._library.find(wanted)
        if folder is None and spec.plan.world > 1:
            folder = await self._library.find(replace(wanted, cut=spec.plan))
        sources = [address for address in spec.sources if address != self.address]
        if folder is None and sources:
            _check_wanted(launch)

            moved = asyncio.Event()  # what is done changes, or it is over

            def progress(loading: Loading) -> None:
                if loading.what != launch.loading.what:
                    moved.set()
                launch.loading = loading

            launch.fetching = asyncio.create_task(
                self._fetcher.fetch(wanted, spec.plan, sources, progress),
                name=f"fetch weights of rank {spec.plan.rank}",
            )
            launch.fetching.add_done_callback(lambda _: moved.set())
            try:
                while not launch.fetching.done():
                    moved.clear()
                    yield launch.loading
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ALIVE_SECONDS):
                            await moved.wait()
            finally:
                launch.fetching.cancel()
                await asyncio.wait([launch.fetching])
            _check_wanted(launch)
            folder = launch.fetching.result()
        launch.folder = "" if folder is None else str(folder)

    async def _begin(self, launch: _Launch) -> EngineProcess:
        spec = launch.spec
        kv_dir = self._kv_dir if spec.kv_dir and self._kv_dir else spec.kv_dir
        launch.engine = await EngineProcess.start(
            replace(spec, model=launch.folder or spec.model, kv_dir=kv_dir, sources=()),
            self._host,
            command=self._command,
            environment=engine_environment(self.blas, launch.spec.threads),
            say=self._say,
            identity=self._identity,
        )
        _check_wanted(launch)
        return launch.engine

    async def _end(self, launches: Iterable[_Launch], *, now: bool = False) -> int:
        """Kill the engines of `launches`, all at once; returns how many there were."""
        chosen = list(launches)
        for launch in chosen:
            launch.stopped = True
            if launch.fetching is not None:
                launch.fetching.cancel()
        killed = [launch for launch in chosen if not (launch.engine and launch.engine.exited)]
        async with asyncio.TaskGroup() as group:
            for launch in chosen:
                group.create_task(self._kill(launch, now=now))
        return len(killed)

    async def _kill(self, launch: _Launch, *, now: bool) -> None:
        await launch.begun.wait()
        if launch.engine is not None:
            await launch.engine.stop(now=now)
        if launch.orphan is not None:
            await asyncio.wait([launch.orphan])
        self._launches.forget(launch)

    @contextmanager
    def _held(self, launch: _Launch) -> Iterator[None]:
        """A call holds the engine. Without any, it is an orphan."""
        launch.holders += 1
        if launch.orphan is not None:
            launch.orphan.cancel()
            launch.orphan = None
        try:
            yield
        finally:
            launch.holders -= 1
            engine = launch.engine
            if engine is None or engine.exited is not None:
                self._launches.forget(launch)
            elif not launch.holders and launch.orphan is None:
                name = f"orphan engine {engine.pid}"
                launch.orphan = asyncio.create_task(self._orphaned(launch, engine), name=name)

    async def _orphaned(self, launch: _Launch, engine: EngineProcess) -> None:
        if not await engine.gone(self._orphan_grace):
            self._say(
                f"nobody has asked for engine {launch.spec.plan.rank} of epoch "
                f"{launch.spec.epoch} for {self._orphan_grace:g} s: it is stopped"
            )
            await engine.stop()
        self._launches.forget(launch)


def _check_wanted(launch: _Launch) -> None:
    """Raise LaunchFailed when the launch was stopped before its engine had begun."""
    if launch.stopped:
        raise LaunchFailed(
            f"the engine of rank {launch.spec.plan.rank} was stopped before it had begun"
        )
