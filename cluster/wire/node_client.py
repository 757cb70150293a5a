"""A node agent as the coordinator calls it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from cluster.core.cluster import EngineEvent, LaunchSpec, Loading, NodeDescription
from cluster.core.errors import NodeUnreachable, ProtocolError
from cluster.core.facts import Facts, clock_ahead
from cluster.core.ids import Rank
from cluster.core.link import Listening, ProbeOrder, ProbeResult
from cluster.core.manifest import Manifest, ModelFile, Wanted
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile
from cluster.wire import security
from cluster.wire.facts_codec import facts_from_wire
from cluster.wire.node_codec import (
    description_from_wire,
    event_from_wire,
    file_from_wire,
    launch_from_wire,
    launch_to_wire,
    loading_from_wire,
    wanted_to_wire,
)
from cluster.wire.probe_codec import listening_from_wire, probe_to_wire, probed_from_wire
from cluster.wire.status import restored
from cluster.wire.v1 import node_pb2, node_pb2_grpc

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""For a call that only asks."""

SURVEY_SECONDS = 9.0
"""For a machine to look at itself: its commands take 5 s at most, and it begins within one."""

MOST_FACTS = 256 << 10
"""Bytes of what a machine says of itself; some 2 KiB are usual."""

STOP_SECONDS = 15.0
"""For a call that waits until processes are gone."""

CHUNK_SECONDS = 60.0
"""For one chunk: a source that takes longer is worse than none."""

MOST_FILES = 10_000
"""Of a manifest."""

SILENCE_SECONDS = 15.0
"""An agent sends a sign of life each second; this long without one, it is lost."""


class NodeClient:
    """Calls one agent. Each call raises NodeUnreachable, NotAuthorized, or what the agent raised.

    An async context manager; leaving it closes the channel and so ends the calls under way.
    """

    def __init__(
        self,
        address: str,
        identity: IdentityFile | None = None,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """`address` is "host:port" (BadConfiguration when not, or when it is not loopback and
        there is no identity). Nothing is connected yet."""
        self.address = address
        self.identity = identity
        self._peer = f"the node agent at {address}"
        self._silence = silence
        self._server_name = Role.NODE.server_name
        self._shown = identity.current() if identity is not None else None
        self._channels = [security.channel(address, identity, self._server_name)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; may be called twice."""
        for channel in self._channels:
            await channel.close()

    async def pin(self, node_id: str) -> None:
        """From now on only the machine of that id will do, which its certificate must show; what
        it has said of itself before is only that. Nothing without an identity. Raises
        NodeUnreachable when it is another."""
        if self.identity is not None and self._server_name != Role.NODE.server_name_of(node_id):
            self._server_name = Role.NODE.server_name_of(node_id)
            self._open()
            await self.describe()

    async def describe(self) -> NodeDescription:
        """What the agent reports of its machine."""
        with restored(self._peer):
            reply = await self._stub().Describe(node_pb2.DescribeRequest(), timeout=ANSWER_SECONDS)
        return description_from_wire(reply)

    async def reserve_ports(self, count: int, host: str = "") -> tuple[str, tuple[int, ...]]:
        """`host`, an address of the agent's machine, or the one that the agent listens on, and
        ports that were free on it a moment ago. Raises BadConfiguration when it has none."""
        with restored(self._peer):
            reply = await self._stub().ReservePorts(
                node_pb2.ReservePortsRequest(count=count, host=host),
                timeout=ANSWER_SECONDS,
            )
        return reply.host, tuple(reply.ports)

    @asynccontextmanager
    async def listening(
        self, hosts: Sequence[str], *, seconds: float, clients: int
    ) -> AsyncIterator[Listening]:
        """Listeners for probes on addresses of the agent's machine, for as long as this is
        entered, and at most `seconds` and `clients` connections."""
        request = node_pb2.ListenRequest(hosts=hosts, seconds=seconds, clients=clients)
        call = self._stub().Listen(request, timeout=seconds + ANSWER_SECONDS)
        try:
            with restored(self._peer):
                async with asyncio.timeout(ANSWER_SECONDS):
                    message = await anext(call.__aiter__(), None)
        except TimeoutError as error:
            call.cancel()
            raise NodeUnreachable(f"{self._peer} did not answer in time") from error
        if message is None:
            raise NodeUnreachable(f"{self._peer} opened no listener")
        try:
            yield listening_from_wire(message)
        finally:
            call.cancel()

    async def probe(self, order: ProbeOrder) -> ProbeResult:
        """What the link from this agent's machine to a listener of another is like."""
        with restored(self._peer):
            reply = await self._stub().Probe(
                probe_to_wire(order),
                timeout=ANSWER_SECONDS + order.seconds,
            )
        return probed_from_wire(reply)

    async def survey(self, *, seconds: float = SURVEY_SECONDS) -> tuple[Facts, float, float]:
        """What the agent finds at its machine, and `clock_ahead`: how far its clock is ahead of
        ours, and within what. Raises NodeUnreachable also when it takes longer than `seconds`."""
        sent = time.time()
        with restored(self._peer):
            reply = await self._stub().Survey(node_pb2.SurveyRequest(), timeout=seconds)
        if (size := reply.ByteSize()) > MOST_FACTS:
            raise ProtocolError(f"{self._peer} tells {size} bytes of facts: {MOST_FACTS} are many")
        if not (math.isfinite(reply.received) and math.isfinite(reply.answered)):
            raise ProtocolError(f"{self._peer} tells no time")
        ahead, within = clock_ahead(sent, reply.received, reply.answered, time.time())
        return facts_from_wire(reply.facts), ahead, within

    async def launch(self, spec: LaunchSpec) -> AsyncGenerator[EngineEvent, None]:
        """Starts an engine and yields its events: Started, Loading..., Ready, and Exited last.

        An engine that ends before it is ready raises the error that it gave (CannotShard, ...)
        or LaunchFailed. An agent that falls silent raises NodeUnreachable. Closing the
        generator lets go: the agent kills the engine after its orphan grace. Close it with
        `contextlib.aclosing`, or cancel the task that iterates it.
        """
        call = self._stub().Launch(launch_to_wire(spec))
        async with aclosing(self._told(call)) as events:
            async for event in events:
                yield event

    async def attach(
        self, secret: str, rank: Rank, incarnation: int
    ) -> AsyncGenerator[EngineEvent, None]:
        """Holds an engine that runs already, of the epoch with that secret, and yields what
        `launch` does, from the start. `incarnation` is the coordinator's. Raises NotFound when
        there is none, NotAuthorized when a newer coordinator has asked for that epoch."""
        request = node_pb2.AttachRequest(secret=secret, rank=rank, incarnation=incarnation)
        call = self._stub().Attach(request)
        async with aclosing(self._told(call)) as events:
            async for event in events:
                yield event

    async def orphans(self) -> tuple[LaunchSpec, ...]:
        """What the engines were launched with that run there and that no call holds."""
        with restored(self._peer):
            reply = await self._stub().Orphans(node_pb2.OrphansRequest(), timeout=ANSWER_SECONDS)
        return tuple(map(launch_from_wire, reply.engines))

    async def stop(
        self, secret: str, incarnation: int, *, now: bool = False, seconds: float = STOP_SECONDS
    ) -> int:
        """Kills every engine of the epoch with that secret; returns how many, once they are gone.
        `incarnation` is the coordinator's. With `now`, without letting them end by themselves.
        Raises NotAuthorized when a newer coordinator has asked for that epoch."""
        with restored(self._peer):
            request = node_pb2.StopRequest(secret=secret, incarnation=incarnation, now=now)
            reply = await self._stub().Stop(request, timeout=seconds)
        return reply.stopped

    async def lease(self) -> AsyncGenerator[None, None]:
        """Signs of life of the agent, two a second; never ends by itself. Raises
        NodeUnreachable when there is none for too long. Close it with `contextlib.aclosing`."""
        call = self._stub().Lease(node_pb2.LeaseRequest())
        messages = call.__aiter__()
        try:
            while True:
                with restored(self._peer):
                    message = await self._next(messages)
                if message is None:
                    raise NodeUnreachable(f"{self._peer} is stopping")
                yield
        finally:
            call.cancel()

    async def refuse(self, nodes: Collection[str]) -> None:
        """From now on the agent refuses whatever the machines of these ids ask for, and those of
        an earlier call only if they are named again."""
        with restored(self._peer):
            request = node_pb2.RefuseRequest(nodes=nodes)
            await self._stub().Refuse(request, timeout=ANSWER_SECONDS)

    async def _told(
        self, call: grpc.aio.UnaryStreamCall[Any, node_pb2.EngineEvent]
    ) -> AsyncGenerator[EngineEvent, None]:
        messages = call.__aiter__()
        try:
            while True:
                with restored(self._peer):
                    message = await self._next(messages)
                if message is None:
                    return
                event = event_from_wire(message)
                if event is not None:
                    yield event
        finally:
            call.cancel()

    async def has(self, wanted: Wanted) -> int | None:
        """Bytes of a model's files that are on that machine; None when it is not there."""
        with restored(self._peer):
            reply = await self._stub().Has(wanted_to_wire(wanted), timeout=ANSWER_SECONDS)
        return reply.bytes if reply.has else None

    async def manifest(self, wanted: Wanted, progress: Callable[[Loading], None]) -> Manifest:
        """What the files of a model are made of, as the agent says: nothing of it is checked.

        It may have to read them all first, or to cut them, which `progress` hears of.
        """
        call = self._stub().Manifest(wanted_to_wire(wanted))
        messages = call.__aiter__()
        files: list[ModelFile] = []
        try:
            with restored(self._peer):
                while (message := await self._next(messages)) is not None:
                    if message.HasField("loading"):
                        progress(loading_from_wire(message.loading))
                    elif len(files) < MOST_FILES:
                        files.append(file_from_wire(message.file))
                    else:
                        raise ProtocolError(f"{self._peer} has more than {MOST_FILES} files")
        finally:
            call.cancel()
        return Manifest(tuple(files))

    async def read_chunk(self, wanted: Wanted, file: str, index: int, length: int) -> bytearray:
        """What the agent says are the `length` bytes of a chunk; nothing of it is checked but
        that they are no more. Raises NodeUnreachable also when they take too long."""
        request = node_pb2.ChunkRequest(model=wanted_to_wire(wanted), file=file, index=index)
        call = self._stub().ReadChunk(request, timeout=CHUNK_SECONDS)
        messages = call.__aiter__()
        data = bytearray()
        try:
            with restored(self._peer):
                while (message := await self._next(messages)) is not None:
                    data += message.data
                    if len(data) > length:
                        raise ProtocolError(f"{self._peer} sends more than {length} bytes")
        finally:
            call.cancel()
        return data

    def _stub(self) -> node_pb2_grpc.NodeAsyncStub:
        """To call by. A channel keeps the certificate that it was made with, so a renewed one
        takes another; what is under way on the old one goes on."""
        if self.identity is not None and self.identity.current() is not self._shown:
            self._shown = self.identity.current()
            self._open()
        return node_pb2_grpc.NodeStub(self._channels[-1])

    def _open(self) -> None:
        self._channels.append(security.channel(self.address, self.identity, self._server_name))

    async def _next(self, messages: AsyncIterator[T]) -> T | None:
        """The next message, or None at the stream's end."""
        try:
            async with asyncio.timeout(self._silence):
                return await anext(messages, None)
        except TimeoutError as error:
            raise NodeUnreachable(
                f"{self._peer} gave no sign of life for {self._silence:g} s"
            ) from error
