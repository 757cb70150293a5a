"""The engine's endpoint, for one coordinator at a time: steps in, results out, and beside them
orders for the shelf and its news. The engine goes on while no stream is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

import grpc

from cluster.core.cluster import Hello
from cluster.core.engine_protocol import Fence
from cluster.core.errors import NotAuthorized, ProtocolError, StepRefused, TandemError
from cluster.core.plan import Step, StepResult
from cluster.core.session import Session
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile
from cluster.wire import guard, security
from cluster.wire.codec import (
    hello_from,
    hello_to,
    news_to,
    order_from,
    result_to,
    shelved_to,
    step_from,
)
from cluster.wire.line import Line
from cluster.wire.status import abort
from cluster.wire.v1 import engine_pb2 as pb
from cluster.wire.v1 import engine_pb2_grpc

HELLO_SECONDS = 10.0
"""A stream that does not say hello within this time is closed."""

Requests = AsyncIterator[pb.ToEngine]
Context = grpc.aio.ServicerContext[pb.ToEngine, pb.FromEngine]


class EngineHandler(Protocol):
    """What the endpoint asks of its engine. All are called on the event loop."""

    def hello(self) -> Hello:
        """What the engine is, and its facts now. The endpoint fills in the incarnation, what it
        has received and how much is on the shelf."""
        ...

    def begin(self) -> Sequence[Shelved]:
        """A coordinator begins: whatever was ordered before is dropped in its turn, and not
        answered any more. Returns what is on the shelf; waits for nothing but reading that."""
        ...

    def submit(self, step: Step) -> None:
        """Hand over a step; never blocks. Raises StepRefused."""
        ...

    def order(self, order: ShelfOrder) -> None:
        """Hand over an order for the shelf; never blocks. Raises StepRefused."""
        ...

    async def next_answer(self) -> StepResult | ShelfNews:
        """The next result in order, or news of the shelf as they come; none is lost when this is
        cancelled. Raises ProtocolError once the engine can't go on."""
        ...


class EngineServer(engine_pb2_grpc.EngineServicer):
    """Serves one EngineHandler."""

    def __init__(
        self, handler: EngineHandler, secret: str, identity: IdentityFile | None = None
    ) -> None:
        """Serve those who know the secret, and with an identity the coordinator of its cluster
        alone."""
        self._handler = handler
        self._identity = identity
        self._server = security.server(
            *guard.admit(identity, Role.COORDINATOR), guard.SecretGuard(guard.secret(secret))
        )
        self._fence: Fence[pb.FromEngine] = Fence()
        self._latest: _Stream | None = None
        """The stream that counts; it may have ended."""
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        self.endpoint = ""

    async def start(self, host: str) -> None:
        """Listen on a free port of `host`; `endpoint` then says where."""
        self.endpoint = security.bind(self._server, host, 0, self._identity)
        await self._server.start()

    async def stop(self) -> None:
        """Close the endpoint and the stream that is open on it."""
        await self._server.stop(grace=0.2)

    # The generated type knows generators only, not handlers that write; and the name is gRPC's.
    async def Run(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Requests, context: Context
    ) -> None:
        """One stream of a coordinator."""
        try:
            theirs = await _first_hello(request_iterator)
            stream, greeting = self._admit(theirs, request_iterator, context)
            await stream.run(greeting)
            return
        except TandemError as error:
            refusal = error
        await abort(context, refusal)

    def _admit(
        self, theirs: Hello, requests: Requests, context: Context
    ) -> tuple[_Stream, list[pb.FromEngine]]:
        """A stream that takes the place of the one before, dead or not, and what is said on it
        first. Raises what the hello is refused with; the one before goes on then."""
        mine, before = self._handler.hello(), self._fence.incarnation
        begins = self._fence.admit(mine, theirs)
        if self._latest is not None:
            now = theirs.incarnation
            newer = NotAuthorized(f"coordinator {before} was replaced by {now}")
            self._latest.end(newer if now > before else None)
        shelved = self._handler.begin() if begins else ()
        session = self._fence.session
        facts = replace(mine.facts, shelved=len(shelved)) if mine.facts else None
        mine = replace(mine, incarnation=theirs.incarnation, received=session.received, facts=facts)
        self._latest = _Stream(self._handler, session, requests, context)
        hello = pb.FromEngine(hello=hello_to(mine))
        return self._latest, [hello, *(pb.FromEngine(shelved=shelved_to(s)) for s in shelved)]


class _Stream:
    """One stream after the coordinator's hello: its steps and orders to the engine, and what
    comes of them back."""

    def __init__(
        self,
        handler: EngineHandler,
        session: Session[pb.FromEngine],
        requests: Requests,
        context: Context,
    ) -> None:
        self._handler = handler
        self._session = session
        self._requests = requests
        self._context = context
        self._line = Line(session, _frame, context.write)
        self._room = asyncio.Event()
        """Set when something was acknowledged."""
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False
        self._reason: TandemError | None = None

    async def run(self, greeting: Sequence[pb.FromEngine]) -> None:
        """Until the coordinator closes its side, the engine has failed, or `end`. Raises what
        the coordinator is to be told."""
        for message in greeting:
            await self._context.write(message)
        if not self._ended:
            works = (self._read(), self._answer(), self._line.attend())
            self._tasks = [asyncio.create_task(work, name="engine stream") for work in works]
            try:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stop()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._reason is not None:
            raise self._reason
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    def end(self, reason: TandemError | None) -> None:
        """From the return of this on, nothing is read or written; the coordinator is told the
        `reason`, if there is one."""
        self._ended, self._reason = True, reason
        self._stop()

    def _stop(self) -> None:
        self._line.open = False
        for task in self._tasks:
            task.cancel()

    async def _read(self) -> None:
        async for message in self._requests:
            before = self._session.acknowledged
            if self._session.receive(message.number, message.ack):
                match message.WhichOneof("kind"):
                    case "step":
                        self._handler.submit(step_from(message.step))
                    case "shelf":
                        self._handler.order(order_from(message.shelf))
                    case _:
                        raise StepRefused("only steps and orders may follow the hello")
                self._line.heard()
            if self._session.acknowledged != before:
                self._room.set()

    async def _answer(self) -> None:
        await self._line.flush()
        while True:
            while self._session.full:
                self._room.clear()
                await self._room.wait()
            try:
                answer = await self._handler.next_answer()
            except ProtocolError as error:
                failure = pb.Failure(message=str(error))
                await self._line.write(pb.FromEngine(failure=failure))
                return
            # Kept before anything else is waited for: it must not be lost with the stream.
            self._session.put(_answer_to(answer))
            await self._line.flush()


async def _first_hello(requests: Requests) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await anext(requests, None)
    except TimeoutError as error:
        raise ProtocolError(f"no hello within {HELLO_SECONDS:.0f} s") from error
    if first is None or not first.HasField("hello"):
        raise ProtocolError("the first message must be a hello")
    return hello_from(first.hello)


def _answer_to(answer: StepResult | ShelfNews) -> pb.FromEngine:
    if isinstance(answer, StepResult):
        return pb.FromEngine(result=result_to(answer))
    return pb.FromEngine(news=news_to(answer))


def _frame(number: int, acknowledged: int, body: pb.FromEngine | None) -> pb.FromEngine:
    message = body if body is not None else pb.FromEngine()
    message.number, message.ack = number, acknowledged
    return message
