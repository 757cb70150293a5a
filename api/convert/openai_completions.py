"""OpenAI's completions: text that is continued as it is, without a chat template. Pure.

One prompt a request: a list of several is refused by name, and so is `echo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.ask import Ask
from api.convert.fields import checked
from api.convert.openai_chat import (
    FINISH_REASONS,
    as_line,
    error_event,
    last_events,
    usage_object,
)
from api.convert.openai_completion_logprobs import LegacyLogprobs
from api.convert.openai_format import wish_of
from api.convert.openai_refuse import Harmless, asks_nothing, refuse_fields
from api.convert.openai_sampling import sampling_of
from api.dialect import SSE, Choice, Reply, comment, event, progress_line
from api.errors import error_body, fault_of
from api.schema.openai_completions import CompletionsRequest
from cluster.core.answer import Part, Text
from cluster.core.errors import InvalidRequest, TandemError, Unsupported
from cluster.core.request import Finish, Progress, TokenLogprob

DEFAULT_MAX_TOKENS = 16
"""As OpenAI documents it for this path alone."""

_HARMLESS: dict[str, Harmless] = {
    "echo": asks_nothing,
    "suffix": asks_nothing,
    "stop_token_ids": asks_nothing,
}


class OpenAICompletions:
    """POST /v1/completions, as an `api.dialect.Dialect`."""

    name = "OpenAI completions"
    prefix = "cmpl"
    content_type = SSE

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        asked = checked(CompletionsRequest, body)
        refuse_fields(asked, _HARMLESS)
        count = asked.n or 1
        if asked.best_of not in (None, count):
            raise Unsupported(
                f"best_of: only {count} is supported here, which is what n says", param="best_of"
            )
        return Ask(
            prompt_of(asked.prompt),
            model=asked.model,
            stream=bool(asked.stream),
            max_tokens=asked.max_tokens or DEFAULT_MAX_TOKENS,
            min_tokens=asked.min_tokens or 0,
            stop=tuple(asked.stop or ()),
            ignore_eos=bool(asked.ignore_eos),
            sampling=sampling_of(asked),
            seed=asked.seed,
            logit_bias=asked.logit_bias or {},
            n=count,
            logprobs=asked.logprobs,
            wish=wish_of(asked),
            usage=bool(asked.stream_options and asked.stream_options.include_usage),
            prompt_param="prompt",
        )

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return {
            **_base(reply),
            "choices": [_choice(each, reply.ask) for each in choices],
            "usage": usage_object(reply.choices.usage),
        }

    def writer(self, reply: Reply) -> CompletionWriter:
        """See Dialect."""
        return CompletionWriter(reply)

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """See Dialect."""
        return fault_of(error).status, error_body(error)


def prompt_of(value: Any) -> str | tuple[int, ...]:
    """The one prompt: text, ids, [text] or [ids]. Raises InvalidRequest for anything else, and
    Unsupported for several."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise Unsupported(
                f"prompt: {len(value)} prompts in one request are not supported; send a request "
                "for each",
                param="prompt",
            )
        value = value[0]
    if isinstance(value, str) and value:
        return value
    # True and False are integers to Python.
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return tuple(value)
    raise InvalidRequest(
        "prompt: should be a string or a list of token ids, not empty", param="prompt"
    )


def _base(reply: Reply) -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": "text_completion",
        "created": int(reply.created),
        "model": reply.model,
    }


def _choice(choice: Choice, ask: Ask) -> dict[str, Any]:
    told = None if ask.logprobs is None else LegacyLogprobs(ask.logprobs).tell(choice.logprobs)
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": told,
        "finish_reason": FINISH_REASONS[choice.finish],
    }


class CompletionWriter:
    """A stream of chunks, as an `api.dialect.Writer`; each chunk is of one choice."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._base = _base(reply)
        self._usage: dict[str, Any] = {"usage": None} if reply.ask.usage else {}
        self._logprobs: dict[int, LegacyLogprobs] = {}
        if (count := reply.ask.logprobs) is not None:
            self._logprobs = {index: LegacyLogprobs(count) for index in range(reply.ask.n)}

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """See Writer."""
        text = "".join(part.text for part in parts if isinstance(part, Text))
        told = self._logprobs.get(index)
        return self._chunk(index, text, logprobs=told.tell(logprobs) if told else None)

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """See Writer."""
        return self._chunk(index, "", finish_reason=FINISH_REASONS[finish])

    def end(self) -> str:
        """See Writer."""
        return last_events(self._base, self._reply)

    def fail(self, error: TandemError) -> str:
        """See Writer."""
        return event(as_line(error_event(error)))

    def life(self, progress: Progress) -> str:
        """See Writer."""
        return comment(progress_line(progress))

    def _chunk(
        self,
        index: int,
        text: str,
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> str:
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return event(as_line({**self._base, "choices": [choice], **self._usage}))
