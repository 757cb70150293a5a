"""The engine's endpoint: steps in, results out, for one coordinator at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from cluster.core.cluster import Hello
from cluster.core.errors import ProtocolError, StepRefused, TandemError
from cluster.core.plan import Step, StepResult
from cluster.wire import security
from cluster.wire.codec import hello_from, hello_to, result_to, step_from
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

    def submit(self, step: Step) -> None:
        """Hand over a step; never blocks. Raises StepRefused."""
        ...

    async def next_result(self) -> StepResult:
        """The next result in order. Raises ProtocolError once the engine can't go on."""
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

    async def _exchange(
        self,
        steps: AsyncIterator[pb.ToEngine],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Steps to the engine and results back until the coordinator closes its side."""
        answering = asyncio.create_task(self._answer(context), name="answer steps")
        try:
            async for message in steps:
                if not message.HasField("step"):
                    raise StepRefused("only steps may follow the hello")
                self._handler.submit(step_from(message.step))
                if answering.done():
                    answering.result()
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            try:
                result = await self._handler.next_result()
            except ProtocolError as error:
                await context.write(pb.FromEngine(failure=pb.Failure(message=str(error))))
                return
            await context.write(pb.FromEngine(result=result_to(result)))
