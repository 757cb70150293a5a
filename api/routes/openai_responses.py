"""POST /v1/responses: generated as in any other dialect, and kept for later.

A response with `store` (the default) is kept. One without `background` is cancelled when its
client leaves, and then kept as cancelled where it was a stream, whose id the client knows.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from anyio import CancelScope
from starlette.types import Receive, Scope, Send

from api.answering import collect, relay
from api.background import apart
from api.caller import Caller, caller_of
from api.convert.form import warning
from api.convert.openai_responses import OpenAIResponses
from api.convert.openai_responses_read import ResponsesAsk
from api.convert.openai_responses_write import ResponseWriter
from api.convert.orders import Prepared
from api.dialect import Reply, Writer
from api.recording import Recording
from api.routes.generate import Generate, send_whole
from api.routes.stored_responses import follow
from api.service import Service
from api.sse import Sink
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

    async def _tell(
        self, reply: Reply, prepared: Prepared, stack: AsyncExitStack, caller: Caller, send: Send
    ) -> None:
        """See Generate. In the background it goes on, whether the client stays or not."""
        ask = _asked(prepared)
        if not (ask.background and ask.store):
            await super()._tell(reply, prepared, stack, caller, send)
            return
        writer = self._responses.writer(reply)
        stored = _stored(writer, ask)
        self._detach(stack.pop_all(), reply, prepared, writer, stored)
        if ask.stream:
            await follow(self._service, stored, -1, send, self._headers(prepared))
        else:
            await send_whole(stored.response, self._headers(prepared), send)

    def _headers(self, prepared: Prepared) -> dict[str, str]:
        """See Generate."""
        told = "; ".join(filter(None, (prepared.form.warning, _asked(prepared).warning)))
        return {"X-Tandem-Warning": warning(told)} if told else {}

    def _may_last(self, prepared: Prepared) -> bool:
        """See Generate; one in the background has readers of its own."""
        return not _asked(prepared).background

    async def _whole(self, reply: Reply, prepared: Prepared, caller: Caller) -> dict[str, Any]:
        """See Generate."""
        ask, writer = _asked(prepared), self._responses.writer(reply)
        (choice,) = await collect(reply, prepared, self._remember(self._caller))
        sink = self._recording(writer, ask, None)
        await sink.end(writer.whole(choice))
        return writer.response()

    async def _stream(
        self, reply: Reply, prepared: Prepared, writer: Writer, sink: Sink, caller: Caller
    ) -> None:
        """See Generate; beside that, to the store."""
        assert isinstance(writer, ResponseWriter)
        recording = self._recording(writer, _asked(prepared), sink)
        try:
            await super()._stream(reply, prepared, writer, recording, caller)
        finally:
            recording.close(writer.cancelled)

    def _recording(self, writer: ResponseWriter, ask: ResponsesAsk, sink: Sink | None) -> Recording:
        stored = _stored(writer, ask) if ask.store else None
        return Recording(self._service.responses, self._caller.owner, stored, sink, writer.begin)

    def _detach(
        self,
        stack: AsyncExitStack,
        reply: Reply,
        prepared: Prepared,
        writer: ResponseWriter,
        stored: Stored,
    ) -> None:
        """Go on in a task of the server's; `stack` holds what is to be left at its end."""
        sink = Recording(self._service.responses, self._caller.owner, stored, None, writer.begin)
        scope = CancelScope()
        stored.cancel = scope.cancel
        stored.add(writer.begin())

        async def work() -> None:
            async with stack:
                try:
                    with scope:
                        last = await relay(
                            reply, prepared, writer, sink, self._remember(self._caller)
                        )
                        await sink.end(last)
                    if scope.cancelled_caught:
                        sink.close(writer.cancelled)
                finally:
                    sink.close(partial(writer.fail, Interrupted("the server has stopped")))

        name = f"response {stored.id}"
        self._service.tasks.create_task(apart(work(), name), name=name)


def _asked(prepared: Prepared) -> ResponsesAsk:
    ask = prepared.ask
    assert isinstance(ask, ResponsesAsk)
    return ask


def _stored(writer: ResponseWriter, ask: ResponsesAsk) -> Stored:
    return Stored(
        writer, ask.items, size=ask.size, previous=ask.previous, background=ask.background
    )
