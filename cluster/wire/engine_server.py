"""The engine's endpoint, for one coordinator at a time: steps in, results out, and beside them
orders for the shelf and its news."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import ProtocolError, StepRefused, TandemError
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.wire import security
from cluster.wire.codec import (
    hello_from,
    hello_to,
    news_to,
    order_from,
    result_to,
    shelved_to,
    step_from,
)
from cluster.wire.status import abort
from cluster.wire.v1 import engine_pb2 as pb
from cluster.wire.v1 import engine_pb2_grpc

HELLO_SECONDS = 10.0
"""A stream that does not say hello within this time is closed."""


class EngineHandler(Protocol):
    """What the endpoint asks of its engine. All are called on the event loop."""

    def hello(self, theirs: Hello) -> Hello:
        """Compare with our own and answer it. Raises VersionMismatch or NotAuthorized."""
        ...

    def shelved(self) -> Sequence[Shelved]:
        """What is on the shelf: as many as the facts of the hello say."""
        ...

    def submit(self, step: Step) -> None:
        """Hand over a step; never blocks. Raises StepRefused."""
        ...

    def order(self, order: ShelfOrder) -> None:
        """Hand over an order for the shelf; never blocks. Raises StepRefused."""
        ...

    async def next_answer(self) -> StepResult | ShelfNews:
        """The next result in order, or news of the shelf as they come. Raises ProtocolError
        once the engine can't go on."""
        ...


class EngineServer(engine_pb2_grpc.EngineServicer):
    """Serves one EngineHandler."""

    def __init__(self, handler: EngineHandler, secret: str) -> None:
        self._handler = handler
        self._server = security.server(security.secret(secret))
        self._busy = False
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        self.endpoint = ""

    async def start(self, host: str) -> None:
        """Listen on a free port of `host`; `endpoint` then says where."""
        self.endpoint = security.bind(self._server, host, 0)
        await self._server.start()

    async def stop(self) -> None:
        """Close the endpoint and the stream that is open on it."""
        await self._server.stop(grace=0.2)

    # The generated type knows generators only, not handlers that write; and the name is gRPC's.
    async def Run(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ToEngine],
        context: grpc.aio.ServicerContext[pb.ToEngine, pb.FromEngine],
    ) -> None:
        """One coordinator's stream."""
        if self._busy:
            await abort(context, ProtocolError("a coordinator is connected already"))
        self._busy = True
        try:
            await self._greet(request_iterator, context)
            await self._exchange(request_iterator, context)
            return
        except TandemError as error:
            refusal = error
        finally:
            self._busy = False
        # Only now: whoever hears of it may try again at once.
        await abort(context, refusal)

    async def _greet(
        self,
        steps: AsyncIterator[pb.ToEngine],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(steps, None)
        except TimeoutError as error:
            raise ProtocolError(f"no hello within {HELLO_SECONDS:.0f} s") from error
        if first is None or not first.HasField("hello"):
            raise ProtocolError("the first message must be a hello")
        mine = self._handler.hello(hello_from(first.hello))
        await context.write(pb.FromEngine(hello=hello_to(mine)))
        for shelved in self._handler.shelved():
            await context.write(pb.FromEngine(shelved=shelved_to(shelved)))

    async def _exchange(
        self,
        steps: AsyncIterator[pb.ToEngine],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Steps and orders to the engine, and what comes of them back, until the coordinator
        closes its side."""
        answering = asyncio.create_task(self._answer(context), name="answer steps")
        try:
            async for message in steps:
                match message.WhichOneof("kind"):
                    case "step":
                        self._handler.submit(step_from(message.step))
                    case "shelf":
                        self._handler.order(order_from(message.shelf))
                    case _:
                        raise StepRefused("only steps and orders may follow the hello")
                if answering.done():
                    answering.result()
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            try:
                answer = await self._handler.next_answer()
            except ProtocolError as error:
                await context.write(pb.FromEngine(failure=pb.Failure(message=str(error))))
                return
            if isinstance(answer, StepResult):
                await context.write(pb.FromEngine(result=result_to(answer)))
            else:
                await context.write(pb.FromEngine(news=news_to(answer)))
