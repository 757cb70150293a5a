"""The generating endpoints: one ASGI application, whatever the dialect.

This is the only place that submits a request, and the coordinator's `submit` registers the
channel of its tokens before any step can name it (DESIGN.md, invariant 1).
"""

from __future__ import annotations

import secrets
import time
from contextlib import AsyncExitStack
from functools import partial

import anyio.lowlevel
import structlog
from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.answering import Remember, collect, relay
from api.body import parse_object, read_body
from api.caller import Caller, caller_of
from api.choices import Choices
from api.convert.orders import Prepared, prepare
from api.dialect import Dialect, Reply
from api.errors import retry_seconds
from api.hangup import until_hangup
from api.request_id import request_id
from api.routes.models import check_model
from api.service import Service
from api.serving import Generation
from api.sse import Connection, Sink, signs_of_life
from cluster.core.errors import RequestError, TandemError

log = structlog.stdlib.get_logger("tandem.api")


class Generate:
    """One dialect's endpoint."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._coordinator = service.coordinator
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = request_id(scope)
        try:
            body = await read_body(scope, receive, self._coordinator.limits.body_bytes)
            if body is None:
                return
            async with until_hangup(receive):
                try:
                    await self._answer(body, scope, receive, send)
                except TandemError as error:
                    await self._refuse(error, ours, scope, receive, send)
        except TandemError as error:
            await self._refuse(error, ours, scope, receive, send)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TandemError only as long as nothing has been sent."""
        async with AsyncExitStack() as stack:
            caller = caller_of(scope)
            stack.enter_context(self._service.quota.enter(caller))
            # In a thread, so that a long prompt doesn't stall other streams. Not abandoned when
            # the client leaves: the limiter counts it until it is done.
            prepared = await to_thread.run_sync(
                self._read, body, caller, limiter=self._service.tokenizing
            )
            await anyio.lowlevel.checkpoint_if_cancelled()
            reply = await self._submit(prepared, stack, request_id(scope))
            remember = partial(self._service.recall.remember, caller.owner)
            if prepared.ask.stream:
                await self._stream(reply, prepared, Connection(send), remember)
            else:
                choices = await collect(reply, prepared, remember)
                whole = self._dialect.whole(reply, choices)
                answer = JSONResponse(whole, headers=prepared.form.headers)
                await answer(scope, receive, send)

    def _read(self, body: bytes, caller: Caller) -> Prepared:
        """All that can be checked without the coordinator's state."""
        ask = self._dialect.read(parse_object(body))
        check_model(ask.model, self._coordinator.model)
        try:
            return prepare(
                ask,
                self._coordinator.tokenizer,
                self._service.recall,
                owner=caller.owner,
                scope=caller.cache_scope,
                fresh_seed=secrets.randbits(63),
            )
        except RequestError as error:
            raise _named(error, ask.prompt_param) from error

    async def _submit(self, prepared: Prepared, stack: AsyncExitStack, ours: str) -> Reply:
        """Submit all or none. Whatever ends the stack's block cancels those that still run."""
        generations: list[Generation] = []
        begun = time.monotonic()
        for order in prepared.orders:
            try:
                generation = self._coordinator.submit(order, prefix=self._dialect.prefix)
            except RequestError as error:
                raise _named(error, prepared.ask.prompt_param) from error
            stack.callback(_log_end, generation, ours, begun)
            stack.enter_context(self._service.live.entered(generation.id, owner=""))
            generations.append(await stack.enter_async_context(generation))
        choices = Choices(generations)
        return Reply(
            id=choices.id,
            request_id=ours,
            model=self._coordinator.model.id,
            created=time.time(),
            ask=prepared.ask,
            choices=choices,
            warning=prepared.form.warning,
        )

    async def _stream(
        self, reply: Reply, prepared: Prepared, sink: Sink, remember: Remember
    ) -> None:
        writer = self._dialect.writer(reply)

        def say() -> str | None:
            healthy = self._coordinator.health().ok
            return writer.life(reply.choices.progress) if healthy else None

        await sink.start(self._dialect.content_type, prepared.form.headers)
        async with signs_of_life(sink, self._service.sign_of_life, say):
            last = await relay(reply, prepared, writer, sink, remember)
        await sink.end(last)

    async def _refuse(
        self, error: TandemError, ours: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        log.info("refused", request_id=ours, error=type(error).__name__)
        status, body = self._dialect.refusal(error, ours)
        retry = retry_seconds(error)
        headers = {} if retry is None else {"Retry-After": str(retry)}
        await JSONResponse(body, status_code=status, headers=headers)(scope, receive, send)


def _named(error: RequestError, param: str) -> RequestError:
    """The prompt under the name that it has in the client's dialect."""
    if error.param == "messages":
        error.param = param
    return error


def _log_end(generation: Generation, request: str, begun: float) -> None:
    log.info(
        "ended",
        request_id=request,
        id=generation.id,
        finish=generation.finish,
        prompt_tokens=generation.usage.prompt_tokens,
        cached_tokens=generation.usage.cached_tokens,
        completion_tokens=generation.usage.completion_tokens,
        seconds=round(time.monotonic() - begun, 3),
    )
