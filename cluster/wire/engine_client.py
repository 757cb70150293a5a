"""The coordinator's side of an engine's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import EpochEnded, NodeUnreachable, ProtocolError, VersionMismatch
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.wire import security
from cluster.wire.codec import (
    hello_from,
    hello_to,
    news_from,
    order_to,
    result_from,
    shelved_from,
    step_to,
)
from cluster.wire.status import restore, restored
from cluster.wire.v1 import engine_pb2 as pb
from cluster.wire.v1 import engine_pb2_grpc

CONNECT_SECONDS = 10.0
CALLS = 5
"""How often an engine is called that refuses before it has heard the hello."""

Stream = grpc.aio.StreamStreamCall[pb.ToEngine, pb.FromEngine]


class EngineClient:
    """One open stream to one engine. Made by `connect`, which also has it read."""

    def __init__(
        self, stream: Stream, hello: Hello, peer: str, shelved: tuple[Shelved, ...] = ()
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._results: asyncio.Queue[StepResult | EpochEnded] = asyncio.Queue()
        """As many as steps are in flight; at the end, and then for good, why there are no more."""
        self.hello = hello
        """What the engine said of itself."""
        self.shelved = shelved
        """What was on its shelf when it was connected."""
        self.on_news: Callable[[ShelfNews], None] = lambda news: None
        """Called with each news of the shelf as it is read; must neither raise nor block."""

    async def send(self, step: Step) -> None:
        """Send a step. Raises EpochEnded when the stream is broken."""
        await self.send_encoded(encode(step))

    async def order(self, order: ShelfOrder) -> None:
        """Send an order for the shelf. Raises EpochEnded when the stream is broken."""
        await self.send_encoded(pb.ToEngine(shelf=order_to(order)))

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
        result = await self._results.get()
        if isinstance(result, StepResult):
            return result
        self._results.put_nowait(result)
        raise EpochEnded(str(result))

    async def read(self) -> None:
        """Read until the stream ends: results for `next_result`, news for `on_news`. News come
        at any time, so it can't be left to somebody who waits for a result."""
        ended = EpochEnded(f"nobody reads the stream of {self._peer} any more")
        try:
            while True:
                answer = await self._next_answer()
                if isinstance(answer, StepResult):
                    self._results.put_nowait(answer)
                else:
                    self.on_news(answer)
        except EpochEnded as error:
            ended = error
        finally:
            self._results.put_nowait(ended)

    async def _next_answer(self) -> StepResult | ShelfNews:
        try:
            message = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise EpochEnded(str(restore(error, self._peer))) from error
        if isinstance(message, pb.FromEngine):
            match message.WhichOneof("kind"):
                case "result":
                    return result_from(message.result)
                case "news":
                    return self._news(message.news)
                case "failure":
                    raise EpochEnded(f"{self._peer} failed: {message.failure.message}")
        raise EpochEnded(f"{self._peer} closed its stream")

    def _news(self, message: pb.ShelfNews) -> ShelfNews:
        try:
            return news_from(message)
        except ProtocolError as error:
            raise EpochEnded(f"{self._peer}: {error}") from error


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
        stream = await _call(channel, secret, hello)
        try:
            theirs, shelved = await _greet(stream, peer, hello)
            client = EngineClient(stream, theirs, peer, shelved)
            reading = asyncio.create_task(client.read(), name=f"read {peer}")
            try:
                yield client
            finally:
                reading.cancel()
                await asyncio.wait([reading])
        finally:
            stream.cancel()


async def _call(channel: grpc.aio.Channel, secret: str, hello: Hello) -> Stream:
    """A stream that our hello was written to, or one that says why it was refused.

    Where a refusal comes while the hello is being written, gRPC puts an error of its own in
    place of the reason; the next call may be told it.
    """
    stub = engine_pb2_grpc.EngineStub(channel)
    calls = 0
    while True:
        stream = stub.Run(metadata=security.secret(secret).metadata)
        calls += 1
        try:
            await stream.write(pb.ToEngine(hello=hello_to(hello)))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL and calls < CALLS:
                continue
        return stream


async def _greet(stream: Stream, peer: str, hello: Hello) -> tuple[Hello, tuple[Shelved, ...]]:
    """The engine's hello, which matches ours, and what is on its shelf."""
    try:
        with restored(peer):
            async with asyncio.timeout(CONNECT_SECONDS):
                answer = await stream.read()
                if not isinstance(answer, pb.FromEngine) or not answer.HasField("hello"):
                    raise ProtocolError(f"{peer} did not answer the hello")
                theirs = hello_from(answer.hello)
                if wrong := differences(hello, theirs):
                    raise VersionMismatch(f"{peer} differs: {'; '.join(wrong)}")
                return theirs, await _read_shelved(stream, theirs, peer)
    except TimeoutError as error:
        raise NodeUnreachable(f"{peer} says nothing more after {CONNECT_SECONDS:g} s") from error


async def _read_shelved(stream: Stream, hello: Hello, peer: str) -> tuple[Shelved, ...]:
    """What follows an engine's hello."""
    shelved = []
    for _ in range(hello.facts.shelved if hello.facts else 0):
        message = await stream.read()
        if not isinstance(message, pb.FromEngine) or not message.HasField("shelved"):
            raise ProtocolError(f"{peer} did not say what is on its shelf")
        shelved.append(shelved_from(message.shelved))
    return tuple(shelved)


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
