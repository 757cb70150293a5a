"""The Node service: a node agent as its coordinator sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

import grpc

from cluster.core.cluster import EngineEvent, LaunchSpec, Loading, NodeDescription
from cluster.core.errors import TandemError
from cluster.core.facts import Facts
from cluster.core.ids import Rank
from cluster.core.link import Listening, ProbeOrder, ProbeResult
from cluster.core.manifest import Manifest, Wanted
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile
from cluster.wire import guard, security
from cluster.wire.facts_codec import facts_to_wire
from cluster.wire.node_codec import (
    description_to_wire,
    event_to_wire,
    file_to_wire,
    launch_from_wire,
    launch_to_wire,
    loading_to_wire,
    wanted_from_wire,
)
from cluster.wire.probe_codec import listening_to_wire, probe_from_wire, probed_to_wire
from cluster.wire.status import abort
from cluster.wire.v1 import node_pb2, node_pb2_grpc

MOST_PORTS = 64

BEAT_SECONDS = 0.5
"""Between two signs of life."""

FOR_AGENTS = tuple(f"/cluster.wire.v1.Node/{method}" for method in ("Has", "Manifest", "ReadChunk"))
"""What agents ask each other for weights with; all else is for the coordinator."""

MOST_READS = 16
"""Chunks that are read at once; more wait. Each holds a piece or two in memory."""

STOP_SECONDS = 0.2
"""For calls to end in order: an agent that is closed first has ended them all."""


class NodeHandler(Protocol):
    """What an agent does; called on the event loop. Any TandemError reaches the caller."""

    def describe(self) -> NodeDescription: ...

    def reserve_ports(self, count: int, host: str = "") -> tuple[str, tuple[int, ...]]:
        """`host`, or this agent's address, and ports that were free on it a moment ago."""
        ...

    def listen(
        self, hosts: Sequence[str], seconds: float, clients: int
    ) -> AsyncGenerator[Listening, None]:
        """Opens listeners for probes and tells of them once; closing the generator closes
        them, and it ends by itself after `seconds`."""
        ...

    async def probe(self, order: ProbeOrder) -> ProbeResult:
        """Measures the link to another agent's listener; says why when it can't be reached."""
        ...

    async def survey(self) -> Facts:
        """Looks at this machine, which takes seconds; those who ask meanwhile get the same."""
        ...

    def launch(self, spec: LaunchSpec) -> AsyncGenerator[EngineEvent, None]:
        """Starts an engine and tells of its life; closing the generator lets go of it."""
        ...

    def attach(
        self, secret: str, rank: Rank, incarnation: int
    ) -> AsyncGenerator[EngineEvent, None]:
        """Tells of the life of an engine that runs already, of the epoch with that secret;
        closing the generator lets go of it. Raises NotFound when there is none, NotAuthorized
        when a coordinator newer than `incarnation` has asked for that epoch."""
        ...

    def orphans(self) -> Sequence[LaunchSpec]:
        """What the engines were launched with that run here and that no call holds, each with
        the incarnation of the newest coordinator that has asked for it."""
        ...

    async def stop(self, secret: str, incarnation: int, *, now: bool = False) -> int:
        """Kills every engine of the epoch with that secret; returns how many, once they are gone.
        With `now`, without letting them end by themselves. Raises NotAuthorized as `attach`."""
        ...

    async def has(self, wanted: Wanted) -> int | None:
        """Bytes of a model's files that are on this machine; None when it is not."""
        ...

    def manifest(self, wanted: Wanted) -> AsyncGenerator[Loading | Manifest, None]:
        """Progress, at least every few seconds, and the manifest last."""
        ...

    def read_chunk(self, wanted: Wanted, file: str, index: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a chunk, in pieces far smaller than a message may be."""
        ...


class NodeServer:
    """A listening Node service."""

    def __init__(
        self, server: grpc.aio.Server, servicer: _Servicer, address: str, over: asyncio.Event
    ) -> None:
        self._server = server
        self._servicer = servicer
        self._over = over
        self.address = address
        """"host:port" as bound."""

    @classmethod
    async def start(
        cls, host: str, port: int, identity: IdentityFile | None, handler: NodeHandler
    ) -> NodeServer:
        """Listen on host:port; port 0 picks a free one. With an identity for the coordinator of
        its cluster alone, but for what other agents may call that it has not named as revoked.

        Raises BadConfiguration when `host` is not loopback and there is no identity, or when it
        is no address of this machine; AddressInUse.
        """
        over = asyncio.Event()
        servicer = _Servicer(handler, over)
        guards = guard.admit(identity, Role.COORDINATOR, servicer.trouble, FOR_AGENTS)
        server = security.server(*guards)
        node_pb2_grpc.add_NodeServicer_to_server(servicer, server)
        address = security.bind(server, host, port, identity)
        await server.start()
        return cls(server, servicer, address, over)

    @property
    def leased(self) -> bool:
        """True while a coordinator listens for signs of life."""
        return self._servicer.leases > 0

    async def stop(self) -> None:
        """Stop listening and end every call under way, those that don't end by themselves soon
        included."""
        self._over.set()
        await self._server.stop(STOP_SECONDS)


class _Servicer(node_pb2_grpc.NodeServicer):
    """Messages in, handler called, messages out."""

    def __init__(self, handler: NodeHandler, over: asyncio.Event) -> None:
        self._handler = handler
        self._over = over
        self.leases = 0
        """Coordinators that listen for signs of life."""
        self._reads = asyncio.Semaphore(MOST_READS)
        self._revoked: frozenset[str] = frozenset()
        """Ids of machines, as the coordinator has said last."""

    def trouble(self, node: str) -> str:
        """Why a machine is to be refused; empty when it is not."""
        return f"{node} was revoked" if node in self._revoked else ""

    async def Describe(  # noqa: N802
        self, request: node_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.NodeDescription:
        try:
            return description_to_wire(self._handler.describe())
        except TandemError as error:
            await abort(context, error)

    async def ReservePorts(  # noqa: N802
        self, request: node_pb2.ReservePortsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.ReservePortsReply:
        try:
            count = min(request.count, MOST_PORTS)
            host, ports = self._handler.reserve_ports(count, request.host)
        except TandemError as error:
            await abort(context, error)
        return node_pb2.ReservePortsReply(host=host, ports=ports)

    async def Listen(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.ListenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            listening = self._handler.listen(tuple(request.hosts), request.seconds, request.clients)
            async with aclosing(listening) as messages:
                async for message in messages:
                    await context.write(listening_to_wire(message))
        except TandemError as error:
            await abort(context, error)

    async def Probe(  # noqa: N802
        self, request: node_pb2.ProbeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.ProbeReply:
        try:
            return probed_to_wire(await self._handler.probe(probe_from_wire(request)))
        except TandemError as error:
            await abort(context, error)

    async def Survey(  # noqa: N802
        self, request: node_pb2.SurveyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.SurveyReply:
        received = time.time()
        try:
            facts = facts_to_wire(await self._handler.survey())
        except TandemError as error:
            await abort(context, error)
        return node_pb2.SurveyReply(facts=facts, received=received, answered=time.time())

    async def Launch(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.LaunchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        await _tell(self._handler.launch(launch_from_wire(request)), context)

    async def Attach(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.AttachRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        rank = Rank(request.rank)
        await _tell(self._handler.attach(request.secret, rank, request.incarnation), context)

    async def Orphans(  # noqa: N802
        self, request: node_pb2.OrphansRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.OrphansReply:
        return node_pb2.OrphansReply(engines=map(launch_to_wire, self._handler.orphans()))

    async def Stop(  # noqa: N802
        self, request: node_pb2.StopRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.StopReply:
        try:
            stopped = await self._handler.stop(request.secret, request.incarnation, now=request.now)
        except TandemError as error:
            await abort(context, error)
        return node_pb2.StopReply(stopped=stopped)

    async def Lease(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.LeaseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self.leases += 1
        try:
            while not self._over.is_set():
                await context.write(node_pb2.Beat())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), BEAT_SECONDS)
        finally:
            self.leases -= 1

    async def Refuse(  # noqa: N802
        self, request: node_pb2.RefuseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.RefuseReply:
        self._revoked = frozenset(request.nodes)
        return node_pb2.RefuseReply()

    # The three that are for other agents too.

    async def Has(  # noqa: N802
        self, request: node_pb2.ModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.HasReply:
        try:
            size = await self._handler.has(wanted_from_wire(request))
        except TandemError as error:
            await abort(context, error)
        return node_pb2.HasReply(has=size is not None, bytes=size or 0)

    async def Manifest(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.ModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            async with aclosing(self._handler.manifest(wanted_from_wire(request))) as events:
                async for event in events:
                    if isinstance(event, Loading):
                        loading = loading_to_wire(event)
                        await context.write(node_pb2.ManifestEvent(loading=loading))
                        continue
                    for file in event.files:
                        await context.write(node_pb2.ManifestEvent(file=file_to_wire(file)))
        except TandemError as error:
            await abort(context, error)

    async def ReadChunk(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.ChunkRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            wanted = wanted_from_wire(request.model)
            async with (
                self._reads,
                aclosing(self._handler.read_chunk(wanted, request.file, request.index)) as pieces,
            ):
                async for piece in pieces:
                    await context.write(node_pb2.Piece(data=piece))
        except TandemError as error:
            await abort(context, error)


async def _tell(
    told: AsyncGenerator[EngineEvent, None], context: grpc.aio.ServicerContext[Any, Any]
) -> None:
    # Not a generator: one that is left at a `yield` is closed only when it is collected.
    try:
        async with aclosing(told) as events:
            async for event in events:
                await context.write(event_to_wire(event))
    except TandemError as error:
        await abort(context, error)
