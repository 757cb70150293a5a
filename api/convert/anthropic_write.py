"""Answers as Anthropic has them, whole and streamed
(https://docs.anthropic.com/en/docs/build-with-claude/streaming). Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from api.convert.openai_chat import as_line
from api.dialect import Choice, Reply, event
from api.errors import anthropic_shape, fault_of, retry_seconds
from cluster.core.answer import CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import PromptTooLong, TandemError, Unsupported
from cluster.core.request import Finish, Progress, TokenLogprob, Usage

SIGNATURE = "unsigned"
"""Anthropic signs what its models think and wants it back unchanged; clients want some text.
Nobody looks at this one."""

SILENT_SIGNS = 15
"""Signs of life in a row after which one is more than a ping: about a minute. Claude Code counts
no pings, and breaks off when 300 seconds bring nothing else."""

PING = event('{"type":"ping"}', name="ping")

_NOT_YET: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}


def usage_object(usage: Usage) -> dict[str, int]:
    """Anthropic's account of tokens: `input_tokens` are those that no cache held, so that the
    three of the prompt add up to what count_tokens says."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def message_object(reply: Reply, choice: Choice) -> dict[str, Any]:
    """A whole answer."""
    content: list[dict[str, Any]] = []
    if choice.thought:
        content.append(_thinking(choice.thought, SIGNATURE))
    if choice.text:
        content.append(_text(choice.text))
    content += [_tool_use(call.id, call.name, input_of(call.arguments)) for call in choice.calls]
    ended = _ended(choice.finish, choice.stop, bool(choice.calls))
    return _message(reply, content, ended)


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object; an empty one for those that a length has cut off, or that
    can't be sent as one: a number beyond all floats, half of a surrogate pair."""
    try:
        value = json.loads(arguments)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # or it can't be sent
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def error_object(error: TandemError, request_id: str) -> dict[str, Any]:
    """An error as Anthropic has it."""
    message = str(error)
    if isinstance(error, PromptTooLong):
        # Claude Code looks for these words, and then shortens the conversation.
        most = error.context - 1
        message = f"prompt is too long: {error.prompt_tokens} tokens > {most} maximum; {message}"
    body = anthropic_shape(fault_of(error), message, param=None, request_id=request_id)
    if isinstance(error, Unsupported) and error.param == "thread":
        # By this, Anthropic's clients know to send the whole conversation instead.
        body["error"]["details"] = {"error_code": "thread_unsupported_request"}
    return body


class MessageWriter:
    """A stream of events, as an `api.dialect.Writer`: message_start, then each content block from
    its start to its stop, message_delta and message_stop."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._begun = False
        self._blocks = 0
        """Begun so far."""
        self._open = ""
        """Type of the block that is not yet over."""
        self._called = False
        self._silent = 0
        """Signs of life since the last part."""

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """See Writer."""
        self._silent = 0
        return self._start() + "".join(map(self._part, parts))

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """See Writer."""
        usage = usage_object(self._reply.choices.usage)
        delta = _ended(finish, stop, self._called)
        last = _event("message_delta", delta=delta, usage=usage)
        return self._start() + self._stop_block() + last

    def end(self) -> str:
        """See Writer."""
        return _event("message_stop")

    def fail(self, error: TandemError) -> str:
        """See Writer: Anthropic's clients raise the error that such an event holds."""
        body = error_object(error, self._reply.request_id)
        if (retry := retry_seconds(error)) is not None:
            body["error"]["retry_after"] = retry
        return event(as_line(body), name="error")

    def life(self, progress: Progress) -> str:
        """See Writer. Between pings, now and then, an event that says that nothing has ended;
        clients add up the counts of such events."""
        self._silent += 1
        if self._silent % SILENT_SIGNS:
            return PING
        nothing = {"output_tokens": 0}
        return self._start() + _event("message_delta", delta=_NOT_YET, usage=nothing)

    def _start(self) -> str:
        """The first event, sent with the first part: by then it is known what was cached."""
        if self._begun:
            return ""
        self._begun = True
        return _event("message_start", message=_message(self._reply, [], _NOT_YET))

    def _part(self, part: Part) -> str:
        match part:
            case Text(text):
                return self._more("text", text) if text else ""
            case Thought(text):
                return self._more("thinking", text) if text else ""
            case CallBegun(_, call, name):
                self._called = True
                return self._start_block(_tool_use(call, name, {}))
            case CallArguments(_, text):
                return self._delta("input_json_delta", "partial_json", text) if text else ""

    def _more(self, kind: str, text: str) -> str:
        begun = ""
        if self._open != kind:
            begun = self._start_block(_text("") if kind == "text" else _thinking("", ""))
        return begun + self._delta(f"{kind}_delta", kind, text)

    def _start_block(self, block: dict[str, Any]) -> str:
        before = self._stop_block()
        self._open = block["type"]
        self._blocks += 1
        begun = _event("content_block_start", index=self._blocks - 1, content_block=block)
        return before + begun + (PING if self._blocks == 1 else "")

    def _stop_block(self) -> str:
        if not self._open:
            return ""
        signed = ""
        if self._open == "thinking":
            signed = self._delta("signature_delta", "signature", SIGNATURE)
        self._open = ""
        return signed + _event("content_block_stop", index=self._blocks - 1)

    def _delta(self, kind: str, field: str, text: str) -> str:
        delta = {"type": kind, field: text}
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)


def _event(kind: str, **fields: Any) -> str:
    return event(as_line({"type": kind, **fields}), name=kind)


def _message(
    reply: Reply, content: list[dict[str, Any]], ended: dict[str, str | None]
) -> dict[str, Any]:
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        **ended,
        "usage": usage_object(reply.choices.usage),
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _thinking(thought: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": thought, "signature": signature}


def _tool_use(call: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call}", "name": name, "input": value}


def _ended(finish: Finish, stop: str | None, called: bool) -> dict[str, str | None]:
    """Why it has ended. A stop string may have cut off a call, which is then not to be made."""
    if finish is Finish.LENGTH:
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}
