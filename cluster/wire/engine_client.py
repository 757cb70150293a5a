"""The coordinator's side of an engine: one session, over as many streams as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import (
    EpochEnded,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    ProtocolError,
    TandemError,
)
from cluster.core.plan import Step, StepResult
from cluster.core.session import Session
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.trust.identity import IdentityFile
from cluster.wire import security
from cluster.wire.codec import news_from, order_to, result_from, step_to
from cluster.wire.engine_stream import Door, Stream, open_stream
from cluster.wire.line import Line
from cluster.wire.status import lost, restore
from cluster.wire.v1 import engine_pb2 as pb

RESUME_SECONDS = 8.0
"""A broken stream that can't be opened again within this time ends the epoch."""
ATTEMPT_SECONDS = 2.0
"""One attempt at it may take so long."""
PAUSES = (0.05, 0.1, 0.2, 0.5)
"""Seconds before each attempt; the last one repeats."""
REFUSALS = 3
"""So many refused connections in a row say that the engine's process is gone: nobody else ever
listens at its port again."""
SILENT_SECONDS = 2.0
"""A stream on which nothing comes for so long, though the engine has not acknowledged
everything, is given up: it may be half open. An engine acknowledges within a second."""
LOOK_SECONDS = 0.5


class _BrokenError(Exception):
    """Raised when a stream has ended for no reason that the engine gave."""


class EngineClient:
    """One engine. Made by `connect`, which also has it read.

    A stream that breaks is opened again, and what was lost with it is sent again: nobody
    notices but by the time it takes.
    """

    def __init__(
        self,
        endpoint: str,
        secret: str,
        hello: Hello,
        identity: IdentityFile | None = None,
        node_id: str = "",
    ) -> None:
        self._endpoint = endpoint
        self._ours = hello
        self._peer = f"the engine of rank {hello.plan.rank} at {endpoint}"
        self._door = Door(endpoint, secret, self._peer, identity, node_id)
        self._session: Session[bytes] = Session()
        self._connection = AsyncExitStack()
        """The stream that is open now, and its channel."""
        self._line: Line[bytes, bytes] | None = None
        """What is written to it; None while there is none."""
        self._room = asyncio.Event()
        """Set when the session may have room again, or will never have any."""
        self._broken_since = 0.0
        """On the loop's clock; the first break since the session last got further."""
        self._further = True
        """The session got further since then."""
        self._heard = False
        """Something came since this was last looked at."""
        self._ended: EpochEnded | NotAuthorized | None = None
        self._results: asyncio.Queue[StepResult | EpochEnded | NotAuthorized] = asyncio.Queue()
        """As many as steps are in flight; at the end, and then for good, why there are no more."""
        self.hello = hello
        """What the engine said of itself when it was connected."""
        self.shelved: tuple[Shelved, ...] = ()
        """What was on its shelf then."""
        self.on_news: Callable[[ShelfNews], None] = lambda news: None
        """Called with each news of the shelf as it is read; must neither raise nor block."""

    async def send(self, step: Step) -> None:
        """Send a step. Raises EpochEnded when the engine failed or is gone, NotAuthorized when
        it listens to a newer coordinator."""
        await self.send_encoded(encode(step))

    async def order(self, order: ShelfOrder) -> None:
        """Send an order for the shelf. Raises EpochEnded when the engine failed or is gone."""
        await self.send_encoded(pb.ToEngine(shelf=order_to(order)).SerializeToString())

    async def send_encoded(self, message: bytes) -> None:
        """Send a step that was encoded once for all ranks. It is kept until the engine has it:
        while the stream is broken, and waits first where much is kept already."""
        while self._session.full and self._ended is None:
            self._room.clear()
            await self._room.wait()
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))
        self._session.put(message)
        if self._line is not None:
            await self._flush(self._line)

    async def next_result(self) -> StepResult:
        """The next result. Raises what `send` does."""
        result = await self._results.get()
        if isinstance(result, StepResult):
            return result
        self._results.put_nowait(result)
        raise type(result)(str(result))

    async def open(self) -> None:
        """Begin the session. Raises VersionMismatch with every difference by name,
        NotAuthorized, ProtocolError or NodeUnreachable."""
        opened = await self._connection.enter_async_context(open_stream(self._door, self._ours))
        self.hello, self.shelved = opened.hello, opened.shelved
        self._stream = opened.stream

    async def close(self) -> None:
        """Close the stream that is open."""
        self._line = None
        await self._connection.aclose()

    async def read(self) -> None:
        """Read until the engine fails or is gone: results for `next_result`, news for `on_news`.
        News come at any time, so it can't be left to somebody who waits for a result. Opens the
        stream again when it breaks."""
        ended: EpochEnded | NotAuthorized = EpochEnded(
            f"nobody reads the stream of {self._peer} any more"
        )
        try:
            while True:
                try:
                    await self._read_stream(self._stream)
                except _BrokenError as error:
                    await self._resume(str(error))
        except (EpochEnded, NotAuthorized) as error:
            ended = error
        except TandemError as error:  # the engine said that it would not go on
            ended = EpochEnded(str(error))
        finally:
            self._ended = ended
            self._room.set()
            self._results.put_nowait(ended)

    # One stream

    async def _read_stream(self, stream: Stream) -> None:
        """Raises _BrokenError at the end of the stream, or what the engine ended it with."""
        line = Line(self._session, _frame, stream.write)
        self._line = line
        ended: Exception
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._attend(line), name=f"attend {self._peer}"),
                group.create_task(self._flush(line), name=f"flush {self._peer}"),
                group.create_task(self._look(stream), name=f"look after {self._peer}"),
            ]
            try:
                with _breaks(self._peer):
                    while True:
                        message = await stream.read()
                        if not isinstance(message, pb.FromEngine):
                            raise _BrokenError(f"{self._peer} closed its stream")
                        self._hear(line, message)
            except (TandemError, _BrokenError) as error:
                ended = error
            finally:
                self._line = None
                line.open = False
                for task in beside:
                    task.cancel()
        raise ended

    def _hear(self, line: Line[bytes, bytes], message: pb.FromEngine) -> None:
        if message.HasField("failure"):
            raise EpochEnded(f"{self._peer} failed: {message.failure.message}")
        self._heard = True
        before = self._session.acknowledged
        try:
            if self._session.receive(message.number, message.ack):
                self._further = True
                self._deliver(message)
                line.heard()
        except ProtocolError as error:
            raise EpochEnded(f"{self._peer}: {error}") from error
        if self._session.acknowledged != before:
            self._further = True
            self._room.set()

    def _deliver(self, message: pb.FromEngine) -> None:
        match message.WhichOneof("kind"):
            case "result":
                self._results.put_nowait(result_from(message.result, time.monotonic()))
            case "news":
                self.on_news(news_from(message.news))
            case other:
                raise ProtocolError(f"{other} can't have a number")

    async def _flush(self, line: Line[bytes, bytes]) -> None:
        """Where the stream breaks, whoever reads it learns why."""
        try:
            with _breaks(self._peer):
                await line.flush()
        except (TandemError, _BrokenError):
            line.open = False

    async def _attend(self, line: Line[bytes, bytes]) -> None:
        try:
            with _breaks(self._peer):
                await line.attend()
        except (TandemError, _BrokenError):
            line.open = False

    async def _look(self, stream: Stream) -> None:
        """Give up a stream on which nothing comes."""
        silent = 0.0
        while silent < SILENT_SECONDS:
            self._heard = False
            await asyncio.sleep(LOOK_SECONDS)
            silent = 0.0 if self._heard or not self._session.kept else silent + LOOK_SECONDS
        stream.cancel()

    # The next stream

    async def _resume(self, reason: str) -> None:
        """Open the stream again. Raises EpochEnded when the engine is gone, NodeLost when that
        can't be told for too long, or what the engine refused it with."""
        now = asyncio.get_running_loop().time
        if self._further or not self._session.kept:
            self._broken_since = now()
            self._further = False
        attempts = refusals = 0
        while refusals < REFUSALS and now() < self._broken_since + RESUME_SECONDS:
            await self._connection.aclose()
            await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
            attempts += 1
            try:
                await self._probe()
                return await self._reopen()
            except ConnectionRefusedError:
                refusals += 1
            except (NodeUnreachable, OSError):  # what TimeoutError is, too
                refusals = 0
        took = f"in the {now() - self._broken_since:.1f} s after that"
        if refusals:
            raise EpochEnded(f"{reason}, and refused {refusals} connections {took}")
        if not attempts:  # it opens every time, and breaks again
            raise EpochEnded(f"{reason}, again and again")
        raise NodeLost(f"{reason}, and did not answer {took}")

    async def _probe(self) -> None:
        """Connect, and no more: gRPC does not tell a port that refuses from a lost network."""
        async with asyncio.timeout(ATTEMPT_SECONDS):
            _, writer = await asyncio.open_connection(*security.split_address(self._endpoint))
        writer.close()

    async def _reopen(self) -> None:
        ours = replace(self._ours, received=self._session.received)
        opened = await self._connection.enter_async_context(
            open_stream(self._door, ours, ATTEMPT_SECONDS)
        )
        assert opened.hello.received is not None  # _greet has checked it
        self._session.resume(opened.hello.received)
        self._room.set()
        self._stream = opened.stream


def encode(step: Step) -> bytes:
    """A step as it goes to every rank."""
    return pb.ToEngine(step=step_to(step)).SerializeToString()


def _frame(number: int, acknowledged: int, body: bytes | None) -> bytes:
    """A message as it goes to one rank: encoded fields that follow others are one message."""
    return pb.ToEngine(number=number, ack=acknowledged).SerializeToString() + (body or b"")


@asynccontextmanager
async def connect(
    endpoint: str,
    secret: str,
    hello: Hello,
    identity: IdentityFile | None = None,
    node_id: str = "",
) -> AsyncIterator[EngineClient]:
    """Open an engine's stream and shake hands; closed on leaving. `identity` is needed beyond
    loopback; the engine then shows the certificate of the machine `node_id`.

    Raises VersionMismatch with every difference by name, NotAuthorized, ProtocolError, or
    NodeUnreachable.
    """
    client = EngineClient(endpoint, secret, hello, identity, node_id)
    try:
        await client.open()
        reading = asyncio.create_task(client.read(), name=f"read the engine at {endpoint}")
        try:
            yield client
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    finally:
        await client.close()


@contextmanager
def _breaks(peer: str) -> Iterator[None]:
    """Tell a stream that broke, which raises _BrokenError, from one that the engine ended, which
    raises its error."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        told = restore(error, peer)
        if lost(error):
            raise _BrokenError(str(told)) from error
        raise told from error
    except asyncio.InvalidStateError as error:  # the call is over already
        raise _BrokenError(f"{peer} closed its stream") from error
    except asyncio.CancelledError:  # of the call, unless somebody cancels this task
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _BrokenError(f"nothing came from {peer} any more") from None
