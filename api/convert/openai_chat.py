"""OpenAI's chat completions to a core order, and its outcome back. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from api.convert.openai_format import TEXT, AnswerFormat
from api.convert.openai_logprobs import logprobs_object
from api.convert.openai_tools import Call
from api.schema.openai_chat import ChatMessage, ChatRequest
from cluster.core.errors import InvalidRequest
from cluster.core.request import Finish, Order, Piece, TokenLogprob, Usage
from cluster.core.sampling import Sampling
from cluster.text.tokenizer import Tokenizer

FINISH_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length"}
"""How an answer ends well; anything else is an error."""

LEAST_TOP_P = 1e-6
"""Stands for top_p 0, which clients send for "only the likeliest"."""

_ROLES = {"developer": "system"}
"""OpenAI's newer name for the role that chat templates know."""


def to_order(
    asked: ChatRequest, tokenizer: Tokenizer, form: AnswerFormat = TEXT, *, fresh_seed: int
) -> Order:
    """What the coordinator is to do; `fresh_seed` is for a request that names none.

    Raises InvalidRequest when the chat template refuses the messages, a logit_bias names a
    token that does not exist, or parameters contradict each other.
    """
    messages = [_message(message, index) for index, message in enumerate(asked.messages)]
    newer = asked.max_completion_tokens
    max_tokens = asked.max_tokens if newer is None else newer
    min_tokens = asked.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens: {min_tokens} is more than the {max_tokens} tokens that the answer may "
            "have",
            param="min_tokens",
        )
    return Order(
        prompt=tokenizer.render(messages, tools=form.tools),
        sampling=_sampling(asked, tokenizer.vocab_size, fresh_seed),
        max_tokens=max_tokens,
        stop=() if form.call else tuple(asked.stop or ()),
        min_tokens=min_tokens,
        ignore_eos=bool(asked.ignore_eos),
        logprobs=_logprobs(asked),
        grammar=form.grammar,
    )


def orders_of(order: Order, count: int) -> list[Order]:
    """One order for each of `count` choices. Choice i has the seed plus i: it is what a request
    with that seed and one choice would get."""
    seeds = [(order.sampling.seed + index) % (1 << 64) for index in range(count)]
    return [replace(order, sampling=replace(order.sampling, seed=seed)) for seed in seeds]


def _logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest(
            "top_logprobs: only allowed when logprobs is true", param="top_logprobs"
        )
    return asked.top_logprobs or 0 if asked.logprobs else None


def _message(message: ChatMessage, index: int) -> dict[str, Any]:
    if message.content is None and message.role != "assistant":
        param = f"messages[{index}].content"
        raise InvalidRequest(f"{param}: field required", param=param)
    parts = [{"type": part.type, "text": part.text} for part in message.content or []]
    return {"role": _ROLES.get(message.role, message.role), "content": parts}


def _sampling(asked: ChatRequest, vocab_size: int, fresh_seed: int) -> Sampling:
    seed = fresh_seed if asked.seed is None else asked.seed
    return Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=max(0, asked.top_k or 0),
        top_p=1.0 if asked.top_p is None else max(asked.top_p, LEAST_TOP_P),
        min_p=asked.min_p or 0.0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=_logit_bias(asked.logit_bias or {}, vocab_size),
        seed=seed % (1 << 64),
    )


def _logit_bias(asked: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for name, value in asked.items():
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: {name[:40]!r} is no token id of this model, which has 0 to "
                f"{vocab_size - 1}",
                param="logit_bias",
            )
        bias[int(name)] = value
    return bias


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's account of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def choice_object(
    index: int, answer: str | Call, finish: Finish, logprobs: Sequence[TokenLogprob] | None
) -> dict[str, Any]:
    """One whole answer; `logprobs` is None when nobody asked."""
    message: dict[str, Any] = {"role": "assistant", "content": answer, "refusal": None}
    if isinstance(answer, Call):
        message |= {"content": None, "tool_calls": [answer.object()]}
    return {
        "index": index,
        "message": message,
        "logprobs": None if logprobs is None else logprobs_object(logprobs),
        "finish_reason": _finish_reason(finish, isinstance(answer, Call)),
    }


def _finish_reason(finish: Finish, call: bool) -> str:
    return "tool_calls" if call and finish is Finish.STOP else FINISH_REASONS[finish]


def completion_object(
    request_id: str, model: str, created: int, choices: list[dict[str, Any]], usage: Usage
) -> dict[str, Any]:
    """All answers at once."""
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_object(usage),
    }


class Chunks:
    """The events of a stream, as JSON lines; each is of one choice."""

    def __init__(
        self, request_id: str, model: str, created: int, *, usage: bool, logprobs: bool = False
    ) -> None:
        self._base: dict[str, Any] = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._usage: dict[str, Any] = {"usage": None} if usage else {}
        self._logprobs = logprobs

    def role(self, index: int) -> str:
        """The first one: who speaks."""
        return self._choice(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> str:
        """Some of the answer; the text of its tokens may come later."""
        return self._choice(
            index,
            {"content": piece.text},
            logprobs=logprobs_object(piece.logprobs) if self._logprobs else None,
        )

    def call(self, index: int, call: Call) -> list[str]:
        """A tool call: its name first, then its arguments."""
        head = call.object()
        arguments = {"arguments": head["function"]["arguments"]}
        head["function"] = {"name": call.name, "arguments": ""}
        deltas = [{"index": 0, **head}, {"index": 0, "function": arguments}]
        return [self._choice(index, {"tool_calls": [delta]}) for delta in deltas]

    def finish(self, index: int, finish: Finish, *, call: bool = False) -> str:
        """The last one of a choice that is complete."""
        return self._choice(index, {}, finish_reason=_finish_reason(finish, call))

    def end(self, usage: Usage) -> list[str]:
        """What ends the stream when every choice is complete."""
        account = _line({**self._base, "choices": [], "usage": usage_object(usage)})
        return [account, "[DONE]"] if self._usage else ["[DONE]"]

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> str:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return _line({**self._base, "choices": [choice], **self._usage})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
