"""The Enrollment service: a join token in, a certificate out. The one endpoint without mutual TLS.

A newcomer trusts nobody yet. In a first handshake, in which it verifies nothing and says nothing,
it takes the authority that the server's certificate carries, and compares its fingerprint with the
token's. Only then does it show the token, over TLS that trusts this authority alone.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import Any

import grpc

from cluster.core.errors import (
    BadConfiguration,
    Busy,
    NodeUnreachable,
    NotAuthorized,
    NotReady,
    TandemError,
)
from cluster.trust import certificate
from cluster.trust.attempts import Attempts
from cluster.trust.authority import Authority
from cluster.trust.identity import Draft, Identity, IdentityFile
from cluster.trust.token import JoinToken
from cluster.wire import guard, security
from cluster.wire.status import abort, restored
from cluster.wire.v1 import node_pb2, node_pb2_grpc

PORT_ABOVE = 2
"""The registry's port and this is the port of enrollment: 8643 and 8645. Between them is that of
agents."""

ANSWER_SECONDS = 15.0

RETRY_SECONDS = 30.0

STOP_SECONDS = 0.2

log = logging.getLogger("tandem.wire")


def enrollment_address(registry: str) -> str:
    """Where machines enroll whose registry is at "host:port". Raises BadConfiguration."""
    host, port = security.split_address(registry)
    if port + PORT_ABOVE > 65535:
        raise BadConfiguration(
            f"port {port} leaves none for machines that enroll, which is {PORT_ABOVE} above it"
        )
    return security.join_address(host, port + PORT_ABOVE)


class EnrollmentServer:
    """A listening Enrollment service."""

    def __init__(self, server: grpc.aio.Server, address: str) -> None:
        self._server = server
        self.address = address
        """"host:port" as bound."""

    @classmethod
    async def start(
        cls, host: str, port: int, identity: IdentityFile, authority: Authority
    ) -> EnrollmentServer:
        """Listen on host:port; port 0 picks a free one. Raises as NodeServer.start does."""
        server = security.newcomer_server()
        node_pb2_grpc.add_EnrollmentServicer_to_server(_Servicer(authority), server)
        address = security.bind(server, host, port, identity, newcomers=True)
        await server.start()
        return cls(server, address)

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop(STOP_SECONDS)


class _Servicer(node_pb2_grpc.EnrollmentServicer):
    """Hears those who have not failed too often."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._attempts = Attempts()

    async def Enroll(  # noqa: N802
        self, request: node_pb2.EnrollRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.Certificate:
        host = guard.caller_host(context)
        try:
            self._attempts.check(host, time.monotonic())
            issued = await asyncio.to_thread(
                self._authority.enroll, request.token, request.request, request.hostname
            )
        except NotAuthorized as error:
            self._attempts.failed(host, time.monotonic())
            log.warning("refused to enroll %s: %s", guard.caller(context), error)
            await abort(context, error)
        except Busy as error:
            await abort(context, error)
        except TandemError as error:
            log.error("could not enroll %s: %s", guard.caller(context), error)
            later = "the server can't enroll machines now: its log says why"
            await abort(context, NotReady(later, retry_after=RETRY_SECONDS))
        log.warning("%s has joined the cluster from %s", issued.node, guard.caller(context))
        return node_pb2.Certificate(certificate=issued.certificate)


async def enroll(registry: str, token: JoinToken, hostname: str) -> Identity:
    """Exchange a token for an identity, with the coordinator whose registry is at "host:port".

    Raises NodeUnreachable, or NotAuthorized when the server is of another cluster than the token,
    or refuses it.
    """
    address = enrollment_address(registry)
    peer = f"the coordinator at {registry}"
    authority = await _authority(address, peer, token)
    draft = Draft()
    request = node_pb2.EnrollRequest(token=str(token), request=draft.request, hostname=hostname)
    async with security.newcomer_channel(address, authority) as channel:
        with restored(peer):
            reply = await node_pb2_grpc.EnrollmentStub(channel).Enroll(
                request, timeout=ANSWER_SECONDS
            )
    return draft.finish(reply.certificate, authority, registry, token.id)


async def _authority(address: str, peer: str, token: JoinToken) -> str:
    """The authority (PEM) that the token means, from the server's certificate."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    unverified.set_alpn_protocols(["h2"])
    host, port = security.split_address(address)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=unverified)
    except TimeoutError as error:
        raise NodeUnreachable(f"{peer} did not answer in time on port {port}") from error
    except OSError as error:  # ssl.SSLError among them
        raise NodeUnreachable(
            f"{peer} can't be reached to enroll, on port {port}: {error.strerror or error}"
        ) from error
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return certificate.pem(certificate.carried_authority(shown or b"", token.fingerprint))
