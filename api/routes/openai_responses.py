"""POST /v1/responses: generated as in any other dialect, and kept for later.

A response with `store` (the default) is kept. One without `background` is cancelled when its
client leaves, and then kept as cancelled where it was a stream, whose id the client knows.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import anyio.lowlevel
from anyio import CancelScope, to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.answering import collect, relay
from api.background import apart
from api.caller import Caller, caller_of
from api.convert.form import warning
from api.convert.openai_responses import OpenAIResponses
from api.convert.openai_responses_read import ResponsesAsk
from api.convert.openai_responses_write import ResponseWriter
from api.convert.orders import Prepared
from api.dialect import Reply
from api.recording import Recording
from api.request_id import request_id
from api.routes.generate import Generate
from api.routes.stored_responses import follow
from api.service import Service
from api.sse import Connection, signs_of_life
from api.stored_response import Stored
from cluster.core.errors import Interrupted


class Responses:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _Respond(self._service, caller_of(scope))(scope, receive, send)


class _Respond(Generate):
    """One request: what it may refer to depends on who sends it."""

    def __init__(self, service: Service, caller: Caller) -> None:
        self._responses = OpenAIResponses(service.responses.earlier(caller.owner))
        super().__init__(service, self._responses)
        self._caller = caller
        self._owner = caller.owner
        self._remembering = partial(service.recall.remember, caller.owner)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """See Generate."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._service.quota.enter(self._caller))
            prepared = await to_thread.run_sync(
                self._read, body, self._caller, limiter=self._service.tokenizing
            )
            await anyio.lowlevel.checkpoint_if_cancelled()
            reply = await self._submit(prepared, stack, request_id(scope), self._caller)
            ask = prepared.ask
            assert isinstance(ask, ResponsesAsk)
            writer = self._responses.writer(reply)
            stored = _stored(writer, ask) if ask.store else None
            headers = _headers(prepared, ask)
            if ask.background and stored is not None:
                self._detach(stack.pop_all(), reply, prepared, writer, stored)
                if ask.stream:
                    await follow(self._service, stored, -1, send, headers)
                else:
                    told = JSONResponse(stored.response, headers=headers)
                    await told(scope, receive, send)
            elif ask.stream:
                await self._relay(reply, prepared, writer, stored, Connection(send), headers)
            else:
                (choice,) = await collect(reply, prepared, self._remembering)
                sink = Recording(self._service.responses, self._owner, stored, None)
                await sink.end(writer.whole(choice))
                await JSONResponse(writer.response(), headers=headers)(scope, receive, send)

    async def _relay(
        self,
        reply: Reply,
        prepared: Prepared,
        writer: ResponseWriter,
        stored: Stored | None,
        connection: Connection,
        headers: dict[str, str],
    ) -> None:
        """Stream to the client, and beside that to the store."""
        sink = Recording(self._service.responses, self._owner, stored, connection)

        def say() -> str | None:
            healthy = self._coordinator.health().ok
            return writer.life(reply.choices.progress) if healthy else None

        try:
            await sink.start(self._responses.content_type, headers)
            async with signs_of_life(sink, self._service.sign_of_life, say):
                await sink.write(writer.begin())
                last = await relay(reply, prepared, writer, sink, self._remembering)
            await sink.end(last)
        finally:
            sink.close(writer.cancelled)

    def _detach(
        self,
        stack: AsyncExitStack,
        reply: Reply,
        prepared: Prepared,
        writer: ResponseWriter,
        stored: Stored,
    ) -> None:
        """Go on in a task of the server's; `stack` holds what is to be left at its end."""
        sink = Recording(self._service.responses, self._owner, stored, None)
        scope = CancelScope()
        stored.cancel = scope.cancel
        stored.add(writer.begin())

        async def work() -> None:
            async with stack:
                try:
                    with scope:
                        last = await relay(reply, prepared, writer, sink, self._remembering)
                        await sink.end(last)
                    if scope.cancelled_caught:
                        sink.close(writer.cancelled)
                finally:
                    sink.close(partial(writer.fail, Interrupted("the server has stopped")))

        name = f"response {stored.id}"
        self._service.tasks.create_task(apart(work(), name), name=name)


def _headers(prepared: Prepared, ask: ResponsesAsk) -> dict[str, str]:
    told = "; ".join(filter(None, (prepared.form.warning, ask.warning)))
    return {"X-Tandem-Warning": warning(told)} if told else {}


def _stored(writer: ResponseWriter, ask: ResponsesAsk) -> Stored:
    return Stored(
        writer, ask.items, size=ask.size, previous=ask.previous, background=ask.background
    )
