"""The Registry service: how a worker makes itself known to a coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from cluster.core.cluster import NodeDescription
from cluster.core.errors import NodeUnreachable, TandemError
from cluster.core.versions import require_same
from cluster.wire import security
from cluster.wire.node_codec import description_from_wire, description_to_wire
from cluster.wire.status import abort, restored
from cluster.wire.v1 import node_pb2, node_pb2_grpc

ALIVE_SECONDS = 1.0
"""Between two signs of life to each member."""

STOP_SECONDS = 0.5
"""For streams to end in order."""

SILENCE_SECONDS = 15.0
"""This long without one, the coordinator is lost."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The worker is a member of the cluster of that name."""

    cluster: str


@dataclass(frozen=True, slots=True)
class StillHere:
    """The coordinator lives; once a second."""


class RegistryHandler(Protocol):
    """What a coordinator does with workers; called on the event loop."""

    cluster: str
    """Its name, told to every worker."""

    def member(self, node: NodeDescription) -> AbstractContextManager[None]:
        """The node is a member for as long as this is entered. Entering may raise any
        TandemError, which the worker is told; entering and leaving must not block."""
        ...


class RegistryServer:
    """A listening Registry service."""

    def __init__(self, server: grpc.aio.Server, address: str, over: asyncio.Event) -> None:
        self._server = server
        self._over = over
        self.address = address
        """"host:port" as bound."""

    @classmethod
    async def start(
        cls, host: str, port: int, token: str | None, handler: RegistryHandler
    ) -> RegistryServer:
        """Listen on host:port; port 0 picks a free one. Raises as NodeServer.start does."""
        security.require_token(host, token)
        server = security.server(security.token(token) if token is not None else None)
        over = asyncio.Event()
        node_pb2_grpc.add_RegistryServicer_to_server(_Servicer(handler, over), server)
        address = security.bind(server, host, port)
        await server.start()
        return cls(server, address, over)

    async def stop(self) -> None:
        """Stop listening; every worker's stream ends in order."""
        self._over.set()
        await self._server.stop(STOP_SECONDS)


class _Servicer(node_pb2_grpc.RegistryServicer):
    """Holds one member per open stream."""

    def __init__(self, handler: RegistryHandler, over: asyncio.Event) -> None:
        self._handler = handler
        self._over = over

    async def Join(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.JoinRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        node = description_from_wire(request.node)
        try:
            require_same(node.versions, f"worker {node.node_id}")
            security.split_address(node.agent_address)
            with self._handler.member(node):
                welcome = node_pb2.Welcome(cluster=self._handler.cluster)
                await context.write(node_pb2.JoinEvent(welcome=welcome))
                while not self._over.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._over.wait(), ALIVE_SECONDS)
                    await context.write(node_pb2.JoinEvent(alive=node_pb2.Alive()))
        except TandemError as error:
            await abort(context, error)


async def join(
    address: str, node: NodeDescription, token: str | None, *, silence: float = SILENCE_SECONDS
) -> AsyncGenerator[Welcome | StillHere, None]:
    """Announce `node` to the coordinator at `address`; a member while this is iterated.

    Ends when the coordinator ends it. Raises NodeUnreachable when it does not answer, falls
    silent or goes; NotAuthorized; VersionMismatch.
    """
    peer = f"the coordinator at {address}"
    metadata = security.token(token).metadata if token is not None else ()
    async with security.channel(address) as channel:
        request = node_pb2.JoinRequest(node=description_to_wire(node))
        call = node_pb2_grpc.RegistryStub(channel).Join(request, metadata=metadata)
        messages = call.__aiter__()
        try:
            while True:
                try:
                    with restored(peer):
                        async with asyncio.timeout(silence):
                            message = await anext(messages, None)
                except TimeoutError as error:
                    raise NodeUnreachable(
                        f"{peer} gave no sign of life for {silence:g} s"
                    ) from error
                if message is None:
                    return
                if message.WhichOneof("kind") == "welcome":
                    yield Welcome(message.welcome.cluster)
                else:
                    yield StillHere()
        finally:
            call.cancel()
