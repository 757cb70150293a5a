"""Ollama's dialect: how its requests are read (https://github.com/ollama/ollama/blob/main/docs).
Pure; `api.convert.ollama_answer` writes the answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from api.ask import Ask, Chat, Message, Wish
from api.convert.fields import checked
from api.convert.ollama_answer import Lines, chat_part, generate_part, whole_answer
from api.convert.openai_chat import call_message
from api.convert.openai_sampling import LEAST_TOP_P
from api.convert.openai_tools import tools_of
from api.dialect import NDJSON, Choice, Reply
from api.errors import error_body, fault_of, ollama_shape
from api.schema.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaMessage, OllamaOptions
from cluster.core.errors import InvalidRequest, TandemError, Unsupported
from cluster.core.sampling import Sampling

Asked = OllamaChatRequest | OllamaGenerateRequest

DEFAULTS = Sampling(temperature=0.8, top_k=40, top_p=0.9)
"""Ollama's own, but for its repeat_penalty: it looks back over 64 tokens, and ours over all."""

PREFIX = "ollama"

_TAG = ":latest"
_PART = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)?")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Ollama:
    """What both paths have in common."""

    prefix = PREFIX
    content_type = NDJSON

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """See Dialect."""
        return fault_of(error).status, error_body(error, ollama_shape)


class OllamaChat(_Ollama):
    """POST /api/chat, as an `api.dialect.Dialect`."""

    name = "Ollama chat"

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        asked = checked(OllamaChatRequest, body)
        if not asked.messages:
            raise InvalidRequest("messages: there is nothing to answer", param="messages")
        tools, choice, named = tools_of(asked.tools, None)
        messages = tuple(_message(each, index) for index, each in enumerate(asked.messages))
        return _ask(Chat(messages, tools, choice, named, _thinking(asked)), asked, "messages")

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return whole_answer(reply, choices[0], chat_part)

    def writer(self, reply: Reply) -> Lines:
        """See Dialect."""
        return Lines(reply, chat_part)


class OllamaGenerate(_Ollama):
    """POST /api/generate, as an `api.dialect.Dialect`."""

    name = "Ollama generate"

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        asked = checked(OllamaGenerateRequest, body)
        for name in ("suffix", "template", "images"):
            _refuse(getattr(asked, name), name)
        if not asked.prompt:
            raise InvalidRequest("prompt: there is nothing to answer", param="prompt")
        if asked.raw:
            if asked.system:
                raise InvalidRequest("system: a raw prompt has no system prompt", param="system")
            return _ask(asked.prompt, asked, "prompt")
        messages: list[Message] = [{"role": "user", "content": asked.prompt}]
        if asked.system:
            messages.insert(0, {"role": "system", "content": asked.system})
        return _ask(Chat(tuple(messages), (), "none", "", _thinking(asked)), asked, "prompt")

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return whole_answer(reply, choices[0], generate_part)

    def writer(self, reply: Reply) -> Lines:
        """See Dialect."""
        return Lines(reply, generate_part)


def served_name(model: str | None) -> str | None:
    """A model's name without the tag that Ollama's clients add."""
    return model and model.removesuffix(_TAG)


def loads(body: dict[str, Any], chat: bool) -> tuple[str | None, float | None] | None:
    """For a request that has nothing to answer: the model that it names, which is to be loaded,
    and for how many seconds it is to be kept (as in Ask): with 0 it is to be unloaded. None for
    others. Raises InvalidRequest."""
    asked: Asked
    if chat:
        asked = checked(OllamaChatRequest, body)
        empty = not asked.messages
    else:
        asked = checked(OllamaGenerateRequest, body)
        empty = not asked.prompt and not asked.images
    if not empty:
        return None
    return served_name(asked.model), keep_seconds(asked.keep_alive)


def keep_seconds(keep_alive: str | float | None) -> float | None:
    """A duration as Go writes it ("1h30m"), or seconds; infinite where it is negative."""
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        parts = _PART.findall(keep_alive)
        seconds = sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
        return math.inf if keep_alive.startswith("-") and seconds else seconds
    return math.inf if keep_alive < 0 else float(keep_alive)


def _ask(prompt: Chat | str, asked: Asked, param: str) -> Ask:
    options = asked.options or OllamaOptions()
    seed = options.seed
    limit = options.num_predict or 0
    return Ask(
        prompt,
        model=served_name(asked.model),
        stream=asked.stream is not False,
        max_tokens=limit if limit > 0 else None,
        stop=tuple(options.stop or ()),
        sampling=_sampling(options),
        seed=None if seed == -1 else seed,
        logprobs=_logprobs(asked),
        usage=True,
        wish=_wish(asked.format),
        keep_alive=keep_seconds(asked.keep_alive),
        prompt_param=param,
    )


def _sampling(options: OllamaOptions) -> Sampling:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    top_k = DEFAULTS.top_k if options.top_k is None else options.top_k
    return Sampling(
        temperature=given(options.temperature, DEFAULTS.temperature),
        top_k=max(0, top_k),
        top_p=max(given(options.top_p, DEFAULTS.top_p), LEAST_TOP_P),
        min_p=options.min_p or 0.0,
        repetition_penalty=options.repeat_penalty or 1.0,
        presence_penalty=options.presence_penalty or 0.0,
        frequency_penalty=options.frequency_penalty or 0.0,
    )


def _logprobs(asked: Asked) -> int | None:
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest(
            "top_logprobs: only allowed when logprobs is true", param="top_logprobs"
        )
    return asked.top_logprobs or 0 if asked.logprobs else None


def _thinking(asked: Asked) -> bool | None:
    return asked.think if asked.think is None else asked.think is not False


def _wish(form: Any) -> Wish | None:
    if form is None or form == "":
        return None
    if form == "json":
        return Wish("format", "json_object")
    if isinstance(form, dict):
        return Wish("format", "json", form)
    raise InvalidRequest('format: should be "json" or a JSON schema', param="format")


def _message(message: OllamaMessage, index: int) -> Message:
    _refuse(message.images, f"messages[{index}].images")
    made: Message = {"role": message.role, "content": message.content or ""}
    if message.role == "assistant":
        if message.thinking:
            made["reasoning_content"] = message.thinking
        if message.tool_calls:
            made["tool_calls"] = [
                call_message(call.id or "", call.function.name, call.function.arguments)
                for call in message.tool_calls
            ]
    if message.role == "tool":
        made["tool_call_id"] = message.tool_call_id or ""
        if message.tool_name:
            made["name"] = message.tool_name
    return made


def _refuse(value: Any, param: str) -> None:
    """Raise Unsupported unless `value` asks for nothing."""
    if value not in (None, "", []):
        raise Unsupported(f"{param} is not supported by this version of Tandem", param=param)
