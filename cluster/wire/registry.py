"""The Registry service: how a worker makes itself known to a coordinator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from cluster.core.cluster import NodeDescription
from cluster.core.errors import NodeUnreachable, NotAuthorized, TandemError, VersionMismatch
from cluster.core.versions import require_same
from cluster.trust.authority import Authority
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile
from cluster.wire import guard, security
from cluster.wire.node_codec import description_from_wire, description_to_wire
from cluster.wire.status import abort, restored
from cluster.wire.v1 import node_pb2, node_pb2_grpc

ALIVE_SECONDS = 1.0
"""Between two signs of life to each member."""

STOP_SECONDS = 0.5
"""For streams to end in order."""

SILENCE_SECONDS = 15.0
"""This long without one, the coordinator is lost."""

RENEW_SECONDS = 15.0

COORDINATOR = Role.COORDINATOR.server_name
"""Whom a worker calls."""

log = logging.getLogger("tandem.wire")


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

    def refused(self, node: NodeDescription, error: VersionMismatch) -> None:
        """The node wanted to be a member, and may not."""
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
        cls,
        host: str,
        port: int,
        handler: RegistryHandler,
        identity: IdentityFile | None = None,
        authority: Authority | None = None,
    ) -> RegistryServer:
        """Listen on host:port; port 0 picks a free one. With an identity, for machines that have
        a certificate of this authority. Raises as NodeServer.start does."""
        trouble = authority.trouble if authority is not None else lambda node: ""
        server = security.server(*guard.admit(identity, Role.NODE, trouble))
        over = asyncio.Event()
        servicer = _Servicer(handler, over, authority)
        node_pb2_grpc.add_RegistryServicer_to_server(servicer, server)
        address = security.bind(server, host, port, identity)
        await server.start()
        return cls(server, address, over)

    async def stop(self) -> None:
        """Stop listening; every worker's stream ends in order."""
        self._over.set()
        await self._server.stop(STOP_SECONDS)


class _Servicer(node_pb2_grpc.RegistryServicer):
    """Holds one member per open stream."""

    def __init__(
        self, handler: RegistryHandler, over: asyncio.Event, authority: Authority | None
    ) -> None:
        self._handler = handler
        self._over = over
        self._authority = authority

    async def Join(  # type: ignore[override]  # noqa: N802
        self, request: node_pb2.JoinRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        node = description_from_wire(request.node)
        try:
            self._check(node.node_id, context)
            try:
                require_same(node.versions, f"worker {node.node_id}")
            except VersionMismatch as error:
                self._handler.refused(node, error)
                raise
            security.split_address(node.agent_address)
            with self._handler.member(node):
                welcome = node_pb2.Welcome(cluster=self._handler.cluster)
                await context.write(node_pb2.JoinEvent(welcome=welcome))
                while not self._over.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._over.wait(), ALIVE_SECONDS)
                    self._check(node.node_id, context)
                    await context.write(node_pb2.JoinEvent(alive=node_pb2.Alive()))
        except TandemError as error:
            if isinstance(error, NotAuthorized):
                log.warning("refused a call from %s: %s", guard.caller(context), error)
            await abort(context, error)

    async def Renew(  # noqa: N802
        self, request: node_pb2.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.Certificate:
        try:
            name = guard.caller_name(context)
            if name is None or self._authority is None:
                raise NotAuthorized("without certificates there is none to renew")
            issued = await asyncio.to_thread(self._authority.renew, name.id, request.request)
        except TandemError as error:
            await abort(context, error)
        return node_pb2.Certificate(certificate=issued.certificate)

    def _check(self, node: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Raise NotAuthorized when the caller announces another machine than its certificate
        names, or was revoked since."""
        name = guard.caller_name(context)
        if name is None:
            return
        if name.id != node:
            raise NotAuthorized(f"{name.id} announces itself as {node}")
        if self._authority is not None and (why := self._authority.trouble(node)):
            raise NotAuthorized(why)


async def join(
    address: str,
    node: NodeDescription,
    identity: IdentityFile | None = None,
    *,
    silence: float = SILENCE_SECONDS,
) -> AsyncGenerator[Welcome | StillHere, None]:
    """Announce `node` to the coordinator at `address`; a member while this is iterated.

    Ends when the coordinator ends it. Raises NodeUnreachable when it does not answer, falls
    silent or goes; NotAuthorized, also when this machine is revoked meanwhile; VersionMismatch.
    """
    peer = f"the coordinator at {address}"
    async with security.channel(address, identity, COORDINATOR) as channel:
        request = node_pb2.JoinRequest(node=description_to_wire(node))
        call = node_pb2_grpc.RegistryStub(channel).Join(request)
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


async def renew(address: str, identity: IdentityFile, request: bytes) -> str:
    """A new certificate (PEM) for a signing request (DER), from the coordinator at `address`.
    Raises NodeUnreachable or NotAuthorized."""
    peer = f"the coordinator at {address}"
    async with security.channel(address, identity, COORDINATOR) as channel:
        with restored(peer):
            reply = await node_pb2_grpc.RegistryStub(channel).Renew(
                node_pb2.RenewRequest(request=request), timeout=RENEW_SECONDS
            )
    return reply.certificate
