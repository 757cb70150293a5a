"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import secrets
import time

import anyio
import anyio.lowlevel
import structlog
from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.body import parse_object, read_body
from api.convert.fields import checked
from api.convert.openai_chat import FINISH_REASONS, Chunks, completion_object, to_order
from api.convert.openai_refuse import refuse_unsupported
from api.errors import error_answer, error_event
from api.hangup import until_hangup
from api.request_id import request_id
from api.routes.models import check_model
from api.schema.openai_chat import ChatRequest
from api.serving import Coordinator, Generation
from api.sse import EventStream, signs_of_life
from cluster.core.errors import Interrupted, TandemError
from cluster.core.request import Finish, Order, Phase, Progress

log = structlog.stdlib.get_logger("tandem.api")

TOKENIZING_THREADS = 2
"""Prompts that are tokenized at the same time; more wait."""


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(self, coordinator: Coordinator, sign_of_life: float) -> None:
        self._coordinator = coordinator
        self._sign_of_life = sign_of_life
        self._tokenizing = anyio.CapacityLimiter(TOKENIZING_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._coordinator.limits.body_bytes)
        if body is None:
            return
        async with until_hangup(receive):
            try:
                await self._answer(body, scope, receive, send)
            except TandemError as error:
                log.info("refused", request_id=request_id(scope), error=type(error).__name__)
                await error_answer(error)(scope, receive, send)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TandemError only as long as nothing has been sent."""
        # In a thread, so that a long prompt doesn't stall other streams. Not abandoned when the
        # client leaves: the limiter counts it until it is done.
        asked, order = await to_thread.run_sync(self._read, body, limiter=self._tokenizing)
        await anyio.lowlevel.checkpoint_if_cancelled()
        generation = self._coordinator.submit(order, prefix="chatcmpl")
        begun = time.monotonic()
        try:
            async with generation:
                if asked.stream:
                    await self._stream(generation, asked, EventStream(send))
                else:
                    answer = await self._whole(generation)
                    await answer(scope, receive, send)
        finally:
            _log_end(generation, request_id(scope), time.monotonic() - begun)

    def _read(self, body: bytes) -> tuple[ChatRequest, Order]:
        """All that can be checked without the coordinator's state."""
        asked = checked(ChatRequest, parse_object(body))
        check_model(asked.model, self._coordinator.model)
        refuse_unsupported(asked)
        order = to_order(asked, self._coordinator.tokenizer, fresh_seed=secrets.randbits(63))
        return asked, order

    async def _whole(self, generation: Generation) -> JSONResponse:
        text = "".join([piece.text async for piece in generation])
        finish = _complete(generation)
        model = self._coordinator.model.id
        return JSONResponse(
            completion_object(
                generation.id, model, int(time.time()), text, finish, generation.usage
            )
        )

    async def _stream(
        self, generation: Generation, asked: ChatRequest, stream: EventStream
    ) -> None:
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        model = self._coordinator.model.id
        chunks = Chunks(generation.id, model, int(time.time()), usage=usage)

        def say() -> str | None:
            healthy = self._coordinator.health().ok
            return sign_of_life(generation.progress) if healthy else None

        await stream.start()
        async with signs_of_life(stream, self._sign_of_life, say):
            last = await _relay(generation, chunks, stream)
        await stream.end(*last)


async def _relay(generation: Generation, chunks: Chunks, stream: EventStream) -> list[str]:
    """Send the answer as it comes; returns the events that end it, well or not."""
    first = [chunks.role()]
    try:
        async for piece in generation:
            if piece.text:
                await stream.events(*first, chunks.text(piece.text))
                first = []
        return [*first, *chunks.last(_complete(generation), generation.usage)]
    except TandemError as error:
        log.warning("failed after headers", id=generation.id, error=type(error).__name__)
        return [json.dumps(error_event(error))]


def _complete(generation: Generation) -> Finish:
    """How a generation whose pieces are all read has ended; raises Interrupted unless well."""
    finish = generation.finish
    if finish not in FINISH_REASONS:
        raise Interrupted(f"the answer is incomplete: the request was {finish or 'left off'}")
    return finish


def sign_of_life(progress: Progress) -> str:
    """How far a request is, for the comment that keeps its client from giving up."""
    match progress.phase:
        case Phase.QUEUED:
            return "queued"
        case Phase.PREFILL:
            return f"prefill {progress.prefilled}/{progress.prompt_tokens}"
        case _:
            return f"decode {progress.generated}"


def _log_end(generation: Generation, request: str, seconds: float) -> None:
    log.info(
        "ended",
        request_id=request,
        id=generation.id,
        finish=generation.finish,
        prompt_tokens=generation.usage.prompt_tokens,
        cached_tokens=generation.usage.cached_tokens,
        completion_tokens=generation.usage.completion_tokens,
        seconds=round(seconds, 3),
    )
