"""The generating endpoints: one ASGI application, whatever the dialect.

This is the only place that submits a request, and the coordinator's `submit` registers the
channel of its tokens before any step can name it (DESIGN.md, invariant 1).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio.lowlevel
import structlog
from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.answering import Remember, collect, relay
from api.ask import Chat
from api.body import parse_object, read_body
from api.caller import Caller, caller_of
from api.choices import Choices
from api.convert.orders import Prepared, prepare
from api.dialect import Dialect, Reply, Writer
from api.errors import retry_seconds
from api.follow import follow
from api.hangup import until_hangup
from api.replay import Replay
from api.request_id import request_id
from api.service import Service
from api.serving import Answers, Generation
from api.sse import Connection, Sink, signs_of_life
from api.streams import Production, Stream
from api.terms import Terms, terms_of
from api.traced_sink import TracedSink
from api.traces import timeline_of
from cluster.core.errors import RequestError, TandemError, TooManyRequests
from cluster.core.timeline import Track, timed
from cluster.core.view import ServedModel

JSON = "application/json"

log = structlog.stdlib.get_logger("tandem.api")


class Generate:
    """One dialect's endpoint."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._service.traces.following(scope):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = request_id(scope)
        try:
            with timed(timeline_of(scope), Track.HTTP, "read the body"):
                body = await read_body(scope, receive, self._service.body_bytes)
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
        streams, terms, caller = self._service.streams, terms_of(scope), caller_of(scope)
        compared = terms.lasting or len(streams) > 0
        timeline = timeline_of(scope)

        def read() -> tuple[Prepared, Answers, Terms]:
            whole = terms.asking(scope["path"], body) if compared else terms
            prepared, model = self._read(body, caller)
            return (
                prepared if timeline is None else prepared.traced(timeline),
                model,
                whole,
            )

        async with AsyncExitStack() as stack:
            try:
                stack.enter_context(self._service.quota.enter(caller))
            except TooManyRequests:
                if compared and await self._attached(body, terms, scope, send):
                    return
                raise
            # In a thread, so that a long prompt doesn't stall other streams. Not abandoned when
            # the client leaves: the limiter counts it until it is done.
            with anyio.CancelScope(shield=terms.lasting):
                with timed(timeline, Track.HTTP, "prepare"):
                    prepared, model, terms = await to_thread.run_sync(
                        read, limiter=self._service.tokenizing
                    )
            if terms.lasting and self._may_last(prepared):
                # What goes on without its client stays on its key's account.
                held = stack.pop_all()
                begin = partial(self._begin, model, prepared, request_id(scope), caller, held)
                async with held, streams.opened(terms, begin) as (stream, found):
                    await follow(stream, send, _place(stream, terms) if found else 0, found=found)
                return
            await anyio.lowlevel.checkpoint_if_cancelled()
            if (orphan := streams.orphan(terms)) is not None:
                with orphan.followed():
                    await follow(orphan, send, _place(orphan, terms), found=True)
                return
            reply = await self._submit(model, prepared, stack, request_id(scope), caller)
            await self._tell(reply, prepared, stack, caller, send)

    async def _tell(
        self, reply: Reply, prepared: Prepared, stack: AsyncExitStack, caller: Caller, send: Send
    ) -> None:
        """Answer the client as long as it stays. `stack` is left after that."""
        if prepared.ask.stream:
            writer = self._dialect.writer(reply)
            await self._stream(reply, prepared, writer, Connection(send), caller)
        else:
            whole = await self._whole(reply, prepared, caller)
            with timed(prepared.timeline, Track.SSE, "write"):
                await send_whole(whole, self._headers(prepared), send)

    def _headers(self, prepared: Prepared) -> dict[str, str]:
        """What is told beside the answer."""
        return prepared.form.headers

    def _may_last(self, prepared: Prepared) -> bool:
        """Whether the answer may be kept for other readers."""
        return True

    async def _attached(self, body: bytes, terms: Terms, scope: Scope, send: Send) -> bool:
        """Follow an answer that is there already: it takes no more of its key's limits, and may be
        what has used them up. False when there is none."""
        whole = await to_thread.run_sync(
            terms.asking, scope["path"], body, limiter=self._service.tokenizing
        )
        stream = self._service.streams.find(whole)
        if stream is None:
            return False
        if terms.lease is not None:
            stream.lease = terms.lease
        with stream.followed():
            await follow(stream, send, _place(stream, terms), found=True)
        return True

    def _read(self, body: bytes, caller: Caller) -> tuple[Prepared, Answers]:
        """All that can be checked without a coordinator's state, and the model that is asked."""
        ask = self._dialect.read(parse_object(body))
        model = self._service.fleet.find(ask.model)
        try:
            prepared = prepare(
                ask,
                model.tokenizer,
                self._service.recall,
                owner=caller.owner,
                scope=caller.cache_scope,
                fresh_seed=secrets.randbits(63),
            )
            return prepared, model
        except RequestError as error:
            raise _named(error, ask.prompt_param) from error

    async def _submit(
        self,
        model: Answers,
        prepared: Prepared,
        stack: AsyncExitStack,
        ours: str,
        caller: Caller,
    ) -> Reply:
        """Submit all or none. Whatever ends the stack's block cancels those that still run."""
        generations: list[Generation] = []
        begun = time.monotonic()
        stack.enter_context(self._service.traces.held(prepared.timeline))
        stack.callback(_note_end, prepared, model.model, generations)
        for order in prepared.orders:
            try:
                generation = model.submit(order, prefix=self._dialect.prefix)
            except RequestError as error:
                raise _named(error, prepared.ask.prompt_param) from error
            stack.callback(_log_end, generation, ours, begun)
            stack.enter_context(
                self._service.live.entered(generation.id, caller, self._dialect.name)
            )
            if prepared.timeline is not None:
                prepared.timeline.requests.append(generation.id)
            generations.append(await stack.enter_async_context(generation))
        if prepared.ask.keep_alive is not None and caller.operator:
            self._service.fleet.keep(model.model.id, prepared.ask.keep_alive)
        choices = Choices(generations, model)
        return Reply(
            id=choices.id,
            request_id=ours,
            model=model.model.id,
            created=time.time(),
            ask=prepared.ask,
            choices=choices,
            warning=prepared.form.warning,
        )

    async def _whole(self, reply: Reply, prepared: Prepared, caller: Caller) -> dict[str, Any]:
        choices = await collect(reply, prepared, self._remember(caller))
        return self._dialect.whole(reply, choices)

    async def _begin(
        self,
        model: Answers,
        prepared: Prepared,
        ours: str,
        caller: Caller,
        held: AsyncExitStack,
        stack: AsyncExitStack,
    ) -> Production:
        """Submit, for an answer that goes on when its client leaves. `stack` is left when the
        answer is over, and with it what was `held` for the request."""
        reply = await self._submit(model, prepared, stack, ours, caller)
        stack.push_async_exit(held.pop_all())
        writer = self._dialect.writer(reply)

        def refuse(replay: Replay, error: TandemError) -> None:
            if prepared.ask.stream:
                replay.begin(self._dialect.content_type, self._headers(prepared))
                replay.finish(writer.fail(error), error)
            else:
                status, body, headers = self._refusal(error, ours)
                replay.begin(JSON, headers, status)
                replay.finish(as_json(body), error)

        async def run(replay: Replay) -> None:
            if prepared.ask.stream:
                await self._stream(reply, prepared, writer, replay, caller)
                return
            try:
                whole = as_json(await self._whole(reply, prepared, caller))
            except TandemError as error:
                refuse(replay, error)
            else:
                replay.begin(JSON, self._headers(prepared))
                replay.finish(whole)

        return Production(run, refuse, lambda error: self._dialect.writer(reply).fail(error))

    async def _stream(
        self, reply: Reply, prepared: Prepared, writer: Writer, sink: Sink, caller: Caller
    ) -> None:
        def say() -> str | None:
            return writer.life(reply.choices.progress) if reply.choices.advancing else None

        if prepared.timeline is not None:
            sink = TracedSink(sink, prepared.timeline)
        await sink.start(self._dialect.content_type, self._headers(prepared))
        async with signs_of_life(sink, self._service.sign_of_life, say):
            last = await relay(reply, prepared, writer, sink, self._remember(caller))
        await sink.end(last)

    def _remember(self, caller: Caller) -> Remember:
        return partial(self._service.recall.remember, caller.owner)

    async def _refuse(
        self, error: TandemError, ours: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        log.info("refused", request_id=ours, error=type(error).__name__)
        if (timeline := timeline_of(scope)) is not None:
            timeline.details["error"] = type(error).__name__
        status, body, headers = self._refusal(error, ours)
        await JSONResponse(body, status_code=status, headers=headers)(scope, receive, send)

    def _refusal(self, error: TandemError, ours: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        status, body = self._dialect.refusal(error, ours)
        retry = retry_seconds(error)
        return status, body, {} if retry is None else {"Retry-After": str(retry)}


async def send_whole(body: dict[str, Any], headers: Mapping[str, str], send: Send) -> None:
    """Send an answer at once."""
    answer = JSONResponse(body, headers=headers)
    await send({"type": "http.response.start", "status": 200, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body})


def _place(stream: Stream, terms: Terms) -> int:
    """Where a client that attaches goes on."""
    return stream.replay.event_at(terms.after or 0)


def as_json(body: dict[str, Any]) -> str:
    """A body as Starlette writes it."""
    return bytes(JSONResponse(body).body).decode()


def _named(error: RequestError, param: str) -> RequestError:
    """The prompt under the name that it has in the client's dialect."""
    if error.param == "messages":
        error.param = param
    return error


def _note_end(prepared: Prepared, model: ServedModel, generations: Sequence[Generation]) -> None:
    """What its trace tells of a request as a whole."""
    if prepared.timeline is None or not generations:
        return
    usage, ask = Choices(generations).usage, prepared.ask
    prepared.timeline.details |= {
        "model": model.id,
        "chat": isinstance(ask.prompt, Chat),
        "stream": ask.stream,
        "finish": tuple(one.finish.value if one.finish else "" for one in generations),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


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
