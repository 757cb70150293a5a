"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import structlog
from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.body import parse_object, read_body
from api.choices import Choices
from api.convert.fields import checked
from api.convert.openai_chat import (
    FINISH_REASONS,
    Chunks,
    choice_object,
    completion_object,
    orders_of,
    to_order,
)
from api.convert.openai_format import AnswerFormat, check_answer, to_format
from api.convert.openai_refuse import refuse_unsupported
from api.convert.openai_tools import Call, forced_call, read_call
from api.errors import error_answer, error_event
from api.hangup import until_hangup
from api.request_id import request_id
from api.routes.models import check_model
from api.schema.openai_chat import ChatRequest
from api.serving import Coordinator, Generation
from api.sse import EventStream, signs_of_life
from cluster.core.errors import Interrupted, TandemError
from cluster.core.request import Finish, Order, Phase, Progress, TokenLogprob

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
        asked, form, order = await to_thread.run_sync(self._read, body, limiter=self._tokenizing)
        await anyio.lowlevel.checkpoint_if_cancelled()
        async with AsyncExitStack() as stack:
            choices = await self._submit(orders_of(order, asked.n or 1), stack, scope)
            if asked.stream:
                await self._stream(choices, asked, form, EventStream(send))
            else:
                answer = await self._whole(choices, asked, form)
                await answer(scope, receive, send)

    async def _submit(self, orders: list[Order], stack: AsyncExitStack, scope: Scope) -> Choices:
        """Submit all or none. Whatever ends the stack's block cancels those that still run."""
        generations: list[Generation] = []
        begun = time.monotonic()
        for order in orders:
            generation = self._coordinator.submit(order, prefix="chatcmpl")
            stack.callback(_log_end, generation, request_id(scope), begun)
            generations.append(await stack.enter_async_context(generation))
        return Choices(generations)

    def _read(self, body: bytes) -> tuple[ChatRequest, AnswerFormat, Order]:
        """All that can be checked without the coordinator's state."""
        asked = checked(ChatRequest, parse_object(body))
        check_model(asked.model, self._coordinator.model)
        refuse_unsupported(asked)
        tokenizer = self._coordinator.tokenizer
        form = forced_call(asked, tokenizer) or to_format(asked, tokenizer)
        return asked, form, to_order(asked, tokenizer, form, fresh_seed=secrets.randbits(63))

    async def _whole(
        self, choices: Choices, asked: ChatRequest, form: AnswerFormat
    ) -> JSONResponse:
        answers: dict[int, dict[str, Any]] = {}

        async def read(index: int, generation: Generation) -> None:
            text: list[str] = []
            logprobs: list[TokenLogprob] = []
            async for piece in generation:
                text.append(piece.text)
                logprobs.extend(piece.logprobs)
            finish = _complete(generation)
            asked_for = logprobs if asked.logprobs else None
            answer = _read_answer("".join(text), form, finish, stops=bool(asked.stop))
            answers[index] = choice_object(index, answer, finish, asked_for)

        await choices.each(read)
        model = self._coordinator.model.id
        whole = [answers[index] for index in sorted(answers)]
        return JSONResponse(
            completion_object(choices.id, model, int(time.time()), whole, choices.usage),
            headers=form.headers,
        )

    async def _stream(
        self, choices: Choices, asked: ChatRequest, form: AnswerFormat, stream: EventStream
    ) -> None:
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        chunks = Chunks(
            choices.id,
            self._coordinator.model.id,
            int(time.time()),
            usage=usage,
            logprobs=bool(asked.logprobs),
        )

        def say() -> str | None:
            healthy = self._coordinator.health().ok
            return sign_of_life(choices.progress) if healthy else None

        await stream.start(form.headers)
        async with signs_of_life(stream, self._sign_of_life, say):
            last = await _relay(choices, chunks, stream, form, stops=bool(asked.stop))
        await stream.end(*last)


async def _relay(
    choices: Choices, chunks: Chunks, stream: EventStream, form: AnswerFormat, *, stops: bool
) -> list[str]:
    """Send the answers as they come, calls when they are complete; returns the events that end
    the stream, well or not."""

    async def read(index: int, generation: Generation) -> None:
        more = [chunks.role(index)]
        text: list[str] = []
        async for piece in generation:
            if form.constrained:
                text.append(piece.text)
            if form.call:
                piece = replace(piece, text="")
            if piece.text or piece.logprobs:
                await stream.events(*more, chunks.piece(index, piece))
                more = []
        finish = _complete(generation)
        answer = _read_answer("".join(text), form, finish, stops=stops)
        call = isinstance(answer, Call)
        if isinstance(answer, Call):
            more += chunks.call(index, answer)
        await stream.events(*more, chunks.finish(index, finish, call=call))

    try:
        await choices.each(read)
        return chunks.end(choices.usage)
    except TandemError as error:
        log.warning("failed after headers", id=choices.id, error=type(error).__name__)
        return [json.dumps(error_event(error))]


def _read_answer(text: str, form: AnswerFormat, finish: Finish, *, stops: bool) -> str | Call:
    """A whole answer in its form, as far as a length left it whole; raises Interrupted when it
    ended by itself and is not what was asked for."""
    if form.call:
        return read_call(text, finish) or ""
    check_answer(form, text, finish, stops=stops)
    return text


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
