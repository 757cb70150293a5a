"""OpenAI's chat completions to a core order, and its outcome back. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from typing import Any

from api.schema.openai_chat import ChatMessage, ChatRequest
from cluster.core.errors import InvalidRequest
from cluster.core.request import Finish, Order, Usage
from cluster.core.sampling import Sampling
from cluster.text.tokenizer import Tokenizer

FINISH_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length"}
"""How an answer ends well; anything else is an error."""

LEAST_TOP_P = 1e-6
"""Stands for top_p 0, which clients send for "only the likeliest"."""

_ROLES = {"developer": "system"}
"""OpenAI's newer name for the role that chat templates know."""


def to_order(asked: ChatRequest, tokenizer: Tokenizer, *, fresh_seed: int) -> Order:
    """What the coordinator is to do; `fresh_seed` is for a request that names none.

    Raises InvalidRequest when the chat template refuses the messages or a logit_bias names a
    token that does not exist.
    """
    messages = [_message(message, index) for index, message in enumerate(asked.messages)]
    newer = asked.max_completion_tokens
    return Order(
        prompt=tokenizer.render(messages),
        sampling=_sampling(asked, tokenizer.vocab_size, fresh_seed),
        max_tokens=asked.max_tokens if newer is None else newer,
        stop=tuple(asked.stop or ()),
    )


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


def completion_object(
    request_id: str, model: str, created: int, text: str, finish: Finish, usage: Usage
) -> dict[str, Any]:
    """The whole answer at once."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": FINISH_REASONS[finish],
    }
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage_object(usage),
    }


class Chunks:
    """The events of one streamed answer, as JSON lines."""

    def __init__(self, request_id: str, model: str, created: int, *, usage: bool) -> None:
        self._base: dict[str, Any] = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._usage: dict[str, Any] = {"usage": None} if usage else {}

    def role(self) -> str:
        """The first one: who speaks."""
        return self._choice({"role": "assistant", "content": ""}, None)

    def text(self, text: str) -> str:
        return self._choice({"content": text}, None)

    def last(self, finish: Finish, usage: Usage) -> list[str]:
        """What ends an answer that is complete; OpenAI's streams end with [DONE]."""
        lines = [self._choice({}, FINISH_REASONS[finish])]
        if self._usage:
            lines.append(_line({**self._base, "choices": [], "usage": usage_object(usage)}))
        return [*lines, "[DONE]"]

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _line({**self._base, "choices": [choice], **self._usage})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
