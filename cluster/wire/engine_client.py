"""The coordinator's side of an engine's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import EpochEnded, ProtocolError, VersionMismatch
from cluster.core.plan import Step, StepResult
from cluster.wire import security
from cluster.wire.codec import hello_from, hello_to, result_from, step_to
from cluster.wire.status import restore, restored
from cluster.wire.v1 import engine_pb2 as pb
from cluster.wire.v1 import engine_pb2_grpc

CONNECT_SECONDS = 10.0

Stream = grpc.aio.StreamStreamCall[pb.ToEngine, pb.FromEngine]


class EngineClient:
    """One open stream to one engine. Made by `connect`."""

    def __init__(self, stream: Stream, hello: Hello, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        self.hello = hello
        """What the engine said of itself."""

    async def send(self, step: Step) -> None:
        """Send a step. Raises EpochEnded when the stream is broken."""
        await self.send_encoded(encode(step))

    async def send_encoded(self, message: pb.ToEngine) -> None:
        """Send a step that was encoded once for all ranks."""
        try:
            await self._stream.write(message)
        except grpc.aio.AioRpcError as error:
            raise EpochEnded(str(restore(error, self._peer))) from error
        except asyncio.InvalidStateError as error:  # the call is over already
            raise EpochEnded(f"{self._peer} closed its stream") from error

    async def next_result(self) -> StepResult:
        """The next result. Raises EpochEnded when the engine failed or is gone."""
        try:
            message = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise EpochEnded(str(restore(error, self._peer))) from error
        if isinstance(message, pb.FromEngine):
            if message.HasField("result"):
                return result_from(message.result)
            if message.HasField("failure"):
                raise EpochEnded(f"{self._peer} failed: {message.failure.message}")
        raise EpochEnded(f"{self._peer} closed its stream")


def encode(step: Step) -> pb.ToEngine:
    """A step as it goes to every rank."""
    return pb.ToEngine(step=step_to(step))


@asynccontextmanager
async def connect(endpoint: str, secret: str, hello: Hello) -> AsyncIterator[EngineClient]:
    """Open an engine's stream and shake hands; closed on leaving.

    Raises VersionMismatch with every difference by name, NotAuthorized, or NodeUnreachable.
    """
    peer = f"the engine of rank {hello.plan.rank} at {endpoint}"
    async with security.channel(endpoint) as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        stream = stub.Run(metadata=security.secret(secret).metadata)
        try:
            with restored(peer):
                async with asyncio.timeout(CONNECT_SECONDS):
                    # A call that was refused already can't be written to; reading says why.
                    with suppress(grpc.aio.AioRpcError):
                        await stream.write(pb.ToEngine(hello=hello_to(hello)))
                    answer = await stream.read()
            if not isinstance(answer, pb.FromEngine) or not answer.HasField("hello"):
                raise ProtocolError(f"{peer} did not answer the hello")
            theirs = hello_from(answer.hello)
            if wrong := differences(hello, theirs):
                raise VersionMismatch(f"{peer} differs: {'; '.join(wrong)}")
            yield EngineClient(stream, theirs, peer)
        finally:
            stream.cancel()


def differences(mine: Hello, theirs: Hello) -> list[str]:
    """By name, everything of a hello that must be equal and is not; empty when all is well."""
    wrong = mine.versions.differences(theirs.versions)
    if mine.epoch != theirs.epoch:
        wrong.append(f"epoch {mine.epoch} here, {theirs.epoch} there")
    if mine.model_digest != theirs.model_digest:
        wrong.append(
            f"model digest {mine.model_digest[:12]} here, {theirs.model_digest[:12]} there "
            "(other weights or tokenizer under the same name)"
        )
    if mine.plan != theirs.plan:
        wrong.append(f"shard plan {mine.plan} here, {theirs.plan} there")
    return wrong
