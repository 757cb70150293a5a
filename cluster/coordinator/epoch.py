"""One epoch: a set of engine processes from launch to the last one gone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from cluster.coordinator.members import Member
from cluster.coordinator.paths import Paths
from cluster.coordinator.ranks import Ranks, check_taken
from cluster.core.cluster import (
    Alive,
    EngineEvent,
    Exited,
    Hello,
    LaunchSpec,
    Loading,
    Ready,
    ShardPlan,
    Started,
)
from cluster.core.errors import (
    EngineCrashed,
    LaunchFailed,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    NotFound,
    Regrouped,
    SetupError,
)
from cluster.core.ids import Epoch, Rank
from cluster.core.versions import versions
from cluster.placement.edges import ring_hosts
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

    def held_on(self, node_id: str) -> int:
        """Bytes that its engines on a machine take; MLX says nothing before the first step."""
        here = [each for each in self.engines if each.member.id == node_id]
        return sum(max(self.ranks.memory_bytes[e.rank], e.weight_bytes) for e in here)


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
    kv_bits: int = 0
    """As in LaunchSpec, as are the next two."""
    draft_model: str = ""
    draft_digest: str = ""

    def same(self, spec: LaunchSpec) -> bool:
        """An engine that was launched with `spec` does what this says."""
        mine = (self.digest, self.kv_bits, self.kv_dir, self.draft_digest)
        return mine == (spec.model_digest, spec.kv_bits, spec.kv_dir, spec.draft_digest)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rank's engine is to run, or runs, and with what orders."""

    member: Member
    spec: LaunchSpec


Progress = Callable[[Sequence[EngineState]], None]


REACH_SECONDS = 5.0
"""An agent that does not answer for so long takes its engine with it; a break that is shorter
leaves the engine alone."""
RETRY_SECONDS = 0.2
STOP_SECONDS = 3.0
"""For the engines of a failed epoch to be gone. A machine that does not answer is not waited for
longer: the next epoch does without it."""


async def places(
    epoch: Epoch,
    members: Sequence[Member],
    split: tuple[str, tuple[int, ...]],
    recipe: Recipe,
    paths: Paths,
    sources: Sequence[str],
) -> list[Place]:
    """Orders for a new group, by rank. `split` says how several ranks split the model, "tensor"
    or "pipeline", and its stages as ShardPlan.layers; `sources` are agents that have it, best
    first. Raises NodeUnreachable."""
    ring = paths.ring(members)
    rdma = paths.rdma(members, ring)
    ordered = [members[place] for place in ring.order]
    hosts = [member for member in ordered for _ in range(member.ranks)]
    world = len(hosts)
    counts = [member.ranks for member in members]
    # Over RDMA these are only where the ranks meet: where each reaches all others.
    listening = (
        [member.host for member in ordered]
        if rdma
        else ring_hosts(ring, counts, alone=members[0].host)
    )
    secret = secrets.token_urlsafe(32)
    addresses = await _reserve(ordered, listening) if world > 1 else ()
    backend = "jaccl" if rdma else "ring"
    return [
        Place(
            member,
            LaunchSpec(
                epoch=epoch,
                secret=secret,
                model=recipe.model,
                model_digest=recipe.digest,
                plan=_plan(world, Rank(rank), split, backend),
                ring=addresses,
                rdma=rdma or (),
                threads=member.threads,
                kv_bits=recipe.kv_bits,
                kv_dir=recipe.kv_dir,
                draft_model=recipe.draft_model,
                draft_digest=recipe.draft_digest,
                sources=tuple(sources),
                incarnation=recipe.incarnation,
            ),
        )
        for rank, member in enumerate(hosts)
    ]


@asynccontextmanager
async def open_epoch(
    group: Sequence[Place],
    recipe: Recipe,
    progress: Progress,
    failed: Callable[[Member], None],
    silent: Callable[[], float],
    *,
    adopt: bool = False,
) -> AsyncIterator[Group]:
    """Launch an engine for each place, by rank, or `adopt` those that run there; shake hands with
    each, and yield the group. `failed` is told on which machine an engine did not come up;
    `silent` tells the seconds since a step was answered.

    Leaving it ends every engine; those that a newer coordinator has taken, which raises
    NotAuthorized, are left to it. Raises the SetupError of the first engine that does not come
    up; once up, an EpochEnded when one exits or its machine is gone. Both may come wrapped in
    an ExceptionGroup.
    """
    engines = [EngineState(place.spec.plan.rank, place.member) for place in group]
    specs = [place.spec for place in group]
    epoch = specs[0].epoch
    ready = [asyncio.get_running_loop().create_future() for _ in engines]
    broken, leaving = True, False
    try:
        async with asyncio.TaskGroup() as tasks:
            following = [
                tasks.create_task(
                    _follow(
                        engine,
                        spec,
                        recipe.incarnation,
                        future,
                        lambda: progress(engines),
                        failed,
                        silent,
                        adopt=adopt,
                    )
                )
                for engine, spec, future in zip(engines, specs, ready, strict=True)
            ]
            await asyncio.gather(*ready)
            async with _connected(engines, specs, recipe) as clients:
                formed = _group(epoch, engines, clients, recipe)
                await formed.ranks.tidy()
                yield formed
            for task in following:
                task.cancel()
        broken = False
    except asyncio.CancelledError:
        broken, leaving = False, True  # the engines are well, and may finish what they write
        raise
    except BaseExceptionGroup as errors:
        broken = errors.subgroup(Regrouped) is None
        if errors.subgroup(NotAuthorized) is not None:
            group = ()  # a newer coordinator has taken the engines
        raise
    finally:
        members = dict.fromkeys(place.member for place in group)
        secret, incarnation = specs[0].secret, recipe.incarnation
        refused = await asyncio.gather(
            *(stop(member, secret, incarnation, now=broken) for member in members)
        )
        if not leaving and any(refused):
            raise next(filter(None, refused))


def _plan(world: int, rank: Rank, split: tuple[str, tuple[int, ...]], backend: str) -> ShardPlan:
    kind, layers = split
    return ShardPlan(world, rank, kind, backend, layers) if world > 1 else ShardPlan(1, rank)


def _group(
    epoch: Epoch,
    engines: Sequence[EngineState],
    clients: Sequence[EngineClient],
    recipe: Recipe,
) -> Group:
    facts = [client.hello.facts for client in clients]
    check_taken(facts)
    for engine, fact in zip(engines, facts, strict=True):
        engine.weight_bytes = fact.weight_bytes if fact else 0
    trimmable = all(fact is not None and fact.trimmable for fact in facts)
    backend = clients[0].hello.plan.backend
    disk_bytes = recipe.disk_bytes // max(engine.member.ranks for engine in engines)
    return Group(epoch, backend, engines, Ranks(clients), trimmable, disk_bytes)


async def _reserve(members: Sequence[Member], hosts: Sequence[str]) -> tuple[str, ...]:
    """A free data-plane port for each rank, "host:port" by rank; `hosts` are where they listen."""
    addresses: list[str] = []
    for member in members:
        host = hosts[len(addresses)]
        _, ports = await member.client.reserve_ports(member.ranks, host)
        addresses.extend(f"{host}:{port}" for port in ports)
    return tuple(addresses)


async def _follow(
    engine: EngineState,
    spec: LaunchSpec,
    incarnation: int,
    ready: asyncio.Future[None],
    changed: Callable[[], None],
    failed: Callable[[Member], None],
    silent: Callable[[], float],
    *,
    adopt: bool,
) -> None:
    """Launch one engine, or adopt it, and keep its state current until it exits, which raises.
    When the call breaks, its agent is called again: it keeps the engine for a while."""
    loop = asyncio.get_running_loop()
    heard = loop.time()
    client = engine.member.client

    def attach() -> AsyncGenerator[EngineEvent, None]:
        return client.attach(spec.secret, spec.plan.rank, incarnation)

    told = attach() if adopt else client.launch(spec)
    while True:
        try:
            async with aclosing(told) as events:
                async for event in events:
                    heard = loop.time()
                    _note(engine, event, ready)
                    changed()
            raise NodeLost(f"the agent of rank {engine.rank} let go of its engine")
        except (SetupError, NotFound) as error:
            if not ready.done():
                failed(engine.member)
                if isinstance(error, NotFound):
                    raise LaunchFailed(str(error)) from error
                raise
            # While steps advance, no agent is missed (invariant 7).
            unheard = min(loop.time() - heard, silent())
            if isinstance(error, NotFound) or unheard > REACH_SECONDS:
                host = engine.member.description.hostname
                engine.exit = f"the engine of rank {engine.rank} on {host} is gone: {error}"
                raise NodeLost(engine.exit) from error
        await asyncio.sleep(RETRY_SECONDS)
        told = attach()


def _note(engine: EngineState, event: EngineEvent, ready: asyncio.Future[None]) -> None:
    """What an engine's agent tells of it. Raises EngineCrashed when it has exited, or LaunchFailed
    when it was never ready."""
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
            raise EngineCrashed(engine.exit) if ready.done() else LaunchFailed(engine.exit)


@asynccontextmanager
async def _connected(
    engines: Sequence[EngineState], specs: Sequence[LaunchSpec], recipe: Recipe
) -> AsyncIterator[list[EngineClient]]:
    """Streams to all engines, each after its handshake."""
    async with AsyncExitStack() as stack:
        clients = []
        for engine, spec in zip(engines, specs, strict=True):
            hello = Hello(spec.epoch, recipe.incarnation, versions(), recipe.digest, spec.plan)
            member = engine.member
            connection = connect(
                engine.endpoint,
                spec.secret,
                hello,
                member.client.identity,
                member.description.node_id,
            )
            clients.append(await stack.enter_async_context(connection))
        yield clients


async def stop(
    member: Member, secret: str, incarnation: int, *, now: bool = False
) -> NotAuthorized | None:
    """The member's engines of an epoch are gone on return; or its agent can't be asked any more,
    and ends them itself when it notices that we are not there; or they are those of a newer
    coordinator, which is returned."""
    try:
        if now:
            await member.client.stop(secret, incarnation, now=True, seconds=STOP_SECONDS)
        else:
            await member.client.stop(secret, incarnation)
    except NodeUnreachable:
        pass
    except NotAuthorized as error:
        return error
    return None


async def all_answer(members: Sequence[Member]) -> bool:
    """True when the agents of all of `members` are there, and were all the time: one that was
    started again has lost its engines."""
    try:
        found = await asyncio.gather(*(member.client.describe() for member in members))
    except NodeUnreachable:
        return False
    return all(
        node.incarnation == member.description.incarnation
        for node, member in zip(found, members, strict=True)
    )
