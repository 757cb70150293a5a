"""One epoch: a set of engine processes from launch to the last one gone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from cluster.coordinator.members import Member
from cluster.coordinator.ranks import Ranks
from cluster.core.cluster import (
    Alive,
    Exited,
    Hello,
    LaunchSpec,
    Loading,
    Ready,
    ShardPlan,
    Started,
)
from cluster.core.errors import EpochEnded, LaunchFailed, NodeUnreachable
from cluster.core.ids import Epoch, Rank
from cluster.core.versions import versions
from cluster.wire.engine_client import EngineClient, connect


@dataclass(slots=True)
class EngineState:
    """One rank's engine, as its agent tells."""

    rank: Rank
    member: Member
    pid: int = 0
    endpoint: str = ""
    loading: Loading = field(default_factory=lambda: Loading("starting", 0.0))
    rss_bytes: int = 0
    weight_bytes: int = 0
    exit: str = ""
    """How and why it ended; empty while it runs."""


@dataclass(frozen=True, slots=True)
class Group:
    """A running set of engines."""

    epoch: Epoch
    backend: str
    engines: Sequence[EngineState]
    """By rank."""
    ranks: Ranks
    trimmable: bool
    disk_bytes: int
    """What the files of one rank may take; 0 when nothing is kept on disk."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every epoch of one served model has in common."""

    model: str
    digest: str
    incarnation: int
    kv_dir: str = ""
    """Folder for prefixes on every machine that was not given another; empty for none."""
    disk_bytes: int = 0
    """What they may take on each machine."""
    kind: str = "tensor"
    """How the model is split over several ranks: "tensor" or "pipeline"."""
    kv_bits: int = 0
    """As in LaunchSpec."""


Progress = Callable[[Sequence[EngineState]], None]


@asynccontextmanager
async def open_epoch(
    epoch: Epoch, members: Sequence[Member], recipe: Recipe, progress: Progress
) -> AsyncIterator[Group]:
    """Launch an engine per rank, shake hands with each, and yield the group.

    Leaving it ends every engine. Raises the SetupError of the first engine that does not come
    up; once up, EpochEnded when one exits. Both may come wrapped in an ExceptionGroup.
    """
    engines = [
        EngineState(Rank(rank), member)
        for rank, member in enumerate(m for m in members for _ in range(m.ranks))
    ]
    world = len(engines)
    ring = await _reserve(engines) if world > 1 else ()
    secret = secrets.token_urlsafe(32)
    specs = [
        LaunchSpec(
            epoch=epoch,
            secret=secret,
            model=recipe.model,
            model_digest=recipe.digest,
            plan=_plan(world, engine.rank, recipe.kind),
            ring=ring,
            threads=max(1, engine.member.description.cores // engine.member.ranks),
            kv_bits=recipe.kv_bits,
            kv_dir=recipe.kv_dir,
        )
        for engine in engines
    ]
    ready = [asyncio.get_running_loop().create_future() for _ in engines]
    try:
        async with asyncio.TaskGroup() as group:
            following = [
                group.create_task(_follow(engine, spec, future, lambda: progress(engines)))
                for engine, spec, future in zip(engines, specs, ready, strict=True)
            ]
            await asyncio.gather(*ready)
            async with _connected(engines, specs, recipe) as clients:
                formed = _group(epoch, engines, clients, recipe)
                await formed.ranks.tidy()
                yield formed
            for task in following:
                task.cancel()
    finally:
        await asyncio.gather(*(_stop(member, epoch) for member in members))


def _plan(world: int, rank: Rank, kind: str) -> ShardPlan:
    return ShardPlan(world, rank, kind, "ring") if world > 1 else ShardPlan(1, rank)


def _group(
    epoch: Epoch,
    engines: Sequence[EngineState],
    clients: Sequence[EngineClient],
    recipe: Recipe,
) -> Group:
    facts = [client.hello.facts for client in clients]
    for engine, fact in zip(engines, facts, strict=True):
        engine.weight_bytes = fact.weight_bytes if fact else 0
    trimmable = all(fact is not None and fact.trimmable for fact in facts)
    backend = clients[0].hello.plan.backend
    disk_bytes = recipe.disk_bytes // max(engine.member.ranks for engine in engines)
    return Group(epoch, backend, engines, Ranks(clients), trimmable, disk_bytes)


async def _reserve(engines: Sequence[EngineState]) -> tuple[str, ...]:
    """A free data-plane port for each rank, "host:port" by rank."""
    addresses: list[str] = []
    for member in dict.fromkeys(engine.member for engine in engines):
        host, ports = await member.client.reserve_ports(member.ranks)
        addresses.extend(f"{host}:{port}" for port in ports)
    return tuple(addresses)


async def _follow(
    engine: EngineState,
    spec: LaunchSpec,
    ready: asyncio.Future[None],
    changed: Callable[[], None],
) -> None:
    """Launch one engine and keep its state current until it exits, which raises."""
    async for event in engine.member.client.launch(spec):
        match event:
            case Started(pid):
                engine.pid = pid
            case Loading():
                engine.loading = event
            case Ready(endpoint, _):
                engine.endpoint = endpoint
                if not ready.done():
                    ready.set_result(None)
            case Alive(rss_bytes, _):
                engine.rss_bytes = rss_bytes
            case Exited(code, last_words):
                how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
                words = f": {last_words}" if last_words else ""
                engine.exit = f"the engine of rank {engine.rank} {how}{words}"
                raise EpochEnded(engine.exit) if ready.done() else LaunchFailed(engine.exit)
        changed()
    raise EpochEnded(f"the agent of rank {engine.rank} let go of its engine")


@asynccontextmanager
async def _connected(
    engines: Sequence[EngineState], specs: Sequence[LaunchSpec], recipe: Recipe
) -> AsyncIterator[list[EngineClient]]:
    """Streams to all engines, each after its handshake."""
    async with AsyncExitStack() as stack:
        clients = []
        for engine, spec in zip(engines, specs, strict=True):
            hello = Hello(spec.epoch, recipe.incarnation, versions(), recipe.digest, spec.plan)
            clients.append(
                await stack.enter_async_context(connect(engine.endpoint, spec.secret, hello))
            )
        yield clients


async def _stop(member: Member, epoch: Epoch) -> None:
    """The member's engines of this epoch are gone on return; or its agent can't be asked any
    more, and ends them itself when it notices that we are not there."""
    with suppress(NodeUnreachable):
        await member.client.stop(epoch)
