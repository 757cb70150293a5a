"""One stream to an engine, from the coordinator's side: opened, and hands shaken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import NodeUnreachable, NotAuthorized, ProtocolError, VersionMismatch
from cluster.core.shelf import Shelved
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile
from cluster.wire import guard, security
from cluster.wire.codec import hello_from, hello_to, shelved_from
from cluster.wire.status import lost, restore
from cluster.wire.v1 import engine_pb2 as pb

CONNECT_SECONDS = 10.0
CALLS = 5
"""How often an engine is called that refuses before it has heard the hello."""

_SERVICE = pb.DESCRIPTOR.services_by_name["Engine"]
_METHOD = f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name['Run'].name}"

Stream = grpc.aio.StreamStreamCall[bytes, pb.FromEngine]
"""Messages go in as bytes, since a step is encoded once for all ranks."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where an engine listens, and what opens it."""

    endpoint: str
    secret: str
    """Of the epoch."""
    name: str
    """Of the engine, for people."""
    identity: IdentityFile | None = None
    """What we show; needed beyond loopback."""
    node_id: str = ""
    """The engine then shows the certificate of this machine."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream whose hellos match."""

    stream: Stream
    hello: Hello
    """The engine's."""
    shelved: tuple[Shelved, ...]
    """What was on its shelf; nothing when a session goes on."""


@asynccontextmanager
async def open_stream(
    door: Door, hello: Hello, seconds: float | None = None
) -> AsyncIterator[Opened]:
    """Open an engine's stream and shake hands, within `seconds` or CONNECT_SECONDS; closed on
    leaving.

    Raises VersionMismatch with every difference by name, NotAuthorized, ProtocolError, or
    NodeUnreachable.
    """
    limit = CONNECT_SECONDS if seconds is None else seconds
    server_name = Role.NODE.server_name_of(door.node_id)
    async with security.channel(door.endpoint, door.identity, server_name) as channel:
        try:
            async with asyncio.timeout(limit):
                stream = await _call(channel, door.secret, hello)
                opened = await _greet(stream, door.name, hello)
        except TimeoutError as error:
            raise NodeUnreachable(f"{door.name} says nothing more after {limit:g} s") from error
        try:
            yield opened
        finally:
            stream.cancel()


async def _call(channel: grpc.aio.Channel, secret: str, hello: Hello) -> Stream:
    """A stream that our hello was written to, or one that says why it was refused.

    Where a refusal comes while the hello is being written, gRPC puts an error of its own in
    place of the reason; the next call may be told it.
    """
    run = channel.stream_stream(
        _METHOD, request_serializer=_as_they_are, response_deserializer=pb.FromEngine.FromString
    )
    message = pb.ToEngine(hello=hello_to(hello)).SerializeToString()
    calls = 0
    while True:
        stream = run(metadata=guard.secret(secret).metadata)
        calls += 1
        try:
            await stream.write(message)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL and calls < CALLS:
                continue
        return stream


def _as_they_are(message: bytes) -> bytes:
    return message


async def _greet(stream: Stream, peer: str, hello: Hello) -> Opened:
    """The engine's hello, which matches ours, and what is on its shelf."""
    answer = await _next(stream, peer)
    if not answer.HasField("hello"):
        raise ProtocolError(f"{peer} did not answer the hello")
    theirs = hello_from(answer.hello)
    if wrong := hello.differences(theirs):
        raise VersionMismatch(f"{peer} differs: {'; '.join(wrong)}")
    if theirs.received is None:
        raise ProtocolError(f"{peer} did not say what it has received")
    shelved = []
    for _ in range(theirs.facts.shelved if theirs.facts else 0):
        message = await _next(stream, peer)
        if not message.HasField("shelved"):
            raise ProtocolError(f"{peer} did not say what is on its shelf")
        shelved.append(shelved_from(message.shelved))
    return Opened(stream, theirs, tuple(shelved))


async def _next(stream: Stream, peer: str) -> pb.FromEngine:
    try:
        message = await stream.read()
    except grpc.aio.AioRpcError as error:
        told = restore(error, peer)
        if lost(error) and not isinstance(told, NotAuthorized):
            told = NodeUnreachable(str(told))
        raise told from error
    if not isinstance(message, pb.FromEngine):
        raise NodeUnreachable(f"{peer} closed its stream")
    return message
