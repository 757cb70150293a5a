"""OpenAI's chat completions: how they are read, and how they are written. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from api.ask import Ask, Chat, Message
from api.convert.fields import checked
from api.convert.openai_format import wish_of
from api.convert.openai_logprobs import logprobs_object
from api.convert.openai_refuse import refuse_unsupported
from api.convert.openai_sampling import sampling_of
from api.convert.openai_tools import arguments_of, tools_of
from api.dialect import SSE, Choice, Reply, comment, event, progress_line
from api.errors import error_body, fault_of, retry_seconds
from api.schema.openai_chat import ChatMessage, ChatRequest
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import InvalidRequest, TandemError
from cluster.core.request import Finish, Progress, TokenLogprob, Usage

FINISH_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length"}

_ROLES = {"developer": "system"}
"""OpenAI's newer name for the role that chat templates know."""


class OpenAIChat:
    """POST /v1/chat/completions, as an `api.dialect.Dialect`."""

    name = "OpenAI chat"
    prefix = "chatcmpl"
    content_type = SSE

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        asked = checked(ChatRequest, body)
        refuse_unsupported(asked)
        tools, choice, named = tools_of(asked.tools, asked.tool_choice)
        newer = asked.max_completion_tokens
        return Ask(
            Chat(messages_of(asked.messages), tools, choice, named, _thinking(asked)),
            model=asked.model,
            stream=bool(asked.stream),
            max_tokens=asked.max_tokens if newer is None else newer,
            min_tokens=asked.min_tokens or 0,
            stop=tuple(asked.stop or ()),
            ignore_eos=bool(asked.ignore_eos),
            sampling=sampling_of(asked),
            seed=asked.seed,
            logit_bias=asked.logit_bias or {},
            n=asked.n or 1,
            logprobs=_logprobs(asked),
            wish=wish_of(asked),
            usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return {
            "id": reply.id,
            "object": "chat.completion",
            "created": int(reply.created),
            "model": reply.model,
            "choices": [choice_object(each, reply.ask) for each in choices],
            "usage": usage_object(reply.choices.usage),
        }

    def writer(self, reply: Reply) -> ChatWriter:
        """See Dialect."""
        return ChatWriter(reply)

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """See Dialect."""
        return fault_of(error).status, error_body(error)


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """A conversation as templates take it; raises InvalidRequest for a turn that says nothing."""
    return tuple(_message(message, index) for index, message in enumerate(messages))


def _message(message: ChatMessage, index: int) -> Message:
    if message.content is None and message.role != "assistant":
        param = f"messages[{index}].content"
        raise InvalidRequest(f"{param}: field required", param=param)
    made: Message = {
        "role": _ROLES.get(message.role, message.role),
        "content": "".join(part.text or "" for part in message.content or []),
    }
    if message.role == "assistant":
        if thought := message.reasoning_content or message.reasoning:
            made["reasoning_content"] = thought
        if message.tool_calls:
            made["tool_calls"] = [
                call_message(call.id or "", call.function.name, call.function.arguments)
                for call in message.tool_calls
            ]
    if message.role == "tool":
        made["tool_call_id"] = message.tool_call_id or ""
        if message.name:
            made["name"] = message.name
    return made


def call_message(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    """A call that was made, as templates take it; `arguments` as JSON or parsed."""
    function = {"name": name, "arguments": arguments_of(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def _thinking(asked: ChatRequest) -> bool | None:
    options = asked.chat_template_kwargs
    if options is not None and options.enable_thinking is not None:
        return options.enable_thinking
    return None if asked.reasoning_effort is None else asked.reasoning_effort != "none"


def _logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest(
            "top_logprobs: only allowed when logprobs is true", param="top_logprobs"
        )
    return asked.top_logprobs or 0 if asked.logprobs else None


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's account of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def choice_object(choice: Choice, ask: Ask) -> dict[str, Any]:
    """One whole answer."""
    # Beside calls, OpenAI has null for no text.
    text = choice.text if choice.text or not choice.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.thought:
        message["reasoning_content"] = choice.thought
    if choice.calls:
        message["tool_calls"] = [call_object(call) for call in choice.calls]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None if ask.logprobs is None else logprobs_object(choice.logprobs),
        "finish_reason": _finish_reason(choice.finish, bool(choice.calls)),
    }


def call_object(call: Call) -> dict[str, Any]:
    """OpenAI's tool call."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(call.id), "type": "function", "function": function}


def call_id(call: str) -> str:
    """A call's id in OpenAI's dialects."""
    return f"call_{call}"


def _finish_reason(finish: Finish, called: bool) -> str:
    return "tool_calls" if called and finish is Finish.STOP else FINISH_REASONS[finish]


class ChatWriter:
    """A stream of chunks, as an `api.dialect.Writer`; each chunk is of one choice."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._base: dict[str, Any] = {
            "id": reply.id,
            "object": "chat.completion.chunk",
            "created": int(reply.created),
            "model": reply.model,
        }
        self._usage: dict[str, Any] = {"usage": None} if reply.ask.usage else {}
        self._begun: set[int] = set()
        self._called: set[int] = set()

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """See Writer."""
        told = None if self._reply.ask.logprobs is None else logprobs_object(logprobs)
        frames = [self._role(index)]
        for part in parts or (Text(""),):
            frames.append(self._choice(index, self._delta(index, part), logprobs=told))
            told = None if told is None else logprobs_object(())
        return "".join(frames)

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """See Writer."""
        reason = _finish_reason(finish, index in self._called)
        return self._role(index) + self._choice(index, {}, finish_reason=reason)

    def end(self) -> str:
        """See Writer."""
        return last_events(self._base, self._reply)

    def fail(self, error: TandemError) -> str:
        """See Writer: OpenAI's clients raise the error that such an event holds."""
        return event(as_line(error_event(error)))

    def life(self, progress: Progress) -> str:
        """See Writer."""
        return comment(progress_line(progress))

    def _role(self, index: int) -> str:
        """The first chunk of a choice: who speaks."""
        if index in self._begun:
            return ""
        self._begun.add(index)
        return self._choice(index, {"role": "assistant", "content": ""})

    def _delta(self, index: int, part: Part) -> dict[str, Any]:
        match part:
            case Text(text):
                return {"content": text}
            case Thought(text):
                return {"reasoning_content": text}
            case CallBegun(number, call, name):
                self._called.add(index)
                function = {"name": name, "arguments": ""}
                begun = {"id": call_id(call), "type": "function", "function": function}
                return {"tool_calls": [{"index": number, **begun}]}
            case CallArguments(number, text):
                return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}

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
        return event(as_line({**self._base, "choices": [choice], **self._usage}))


def last_events(base: dict[str, Any], reply: Reply) -> str:
    """What ends a stream of chunks that have the fields `base`: usage, if asked for, and a mark."""
    if not reply.ask.usage:
        return event("[DONE]")
    usage = usage_object(reply.choices.usage)
    return event(as_line({**base, "choices": [], "usage": usage})) + event("[DONE]")


def error_event(error: TandemError) -> dict[str, Any]:
    """What ends a stream that had begun."""
    body = error_body(error)
    if (retry := retry_seconds(error)) is not None:
        body["error"]["retry_after"] = retry
    return body


def as_line(value: dict[str, Any]) -> str:
    """JSON on one line, as short as it goes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
