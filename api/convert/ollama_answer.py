"""Ollama's dialect: how its answers are written, as one object or as a line for each part. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from api.convert.anthropic_write import input_of
from api.convert.openai_chat import FINISH_REASONS, as_line, call_id
from api.convert.openai_logprobs import UNLIKELY
from api.dialect import Choice, Reply
from api.errors import error_body, ollama_shape, retry_seconds
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import TandemError
from cluster.core.request import Finish, Progress, TokenLogprob

Written = Callable[[str, str, Sequence[Call]], dict[str, Any]]
"""Some text, some reasoning and some calls, as fields of an answer."""


def chat_part(text: str, thought: str = "", calls: Sequence[Call] = ()) -> dict[str, Any]:
    """/api/chat has it as a message."""
    return {"message": {"role": "assistant", "content": text, **_beside(thought, calls)}}


def generate_part(text: str, thought: str = "", calls: Sequence[Call] = ()) -> dict[str, Any]:
    """/api/generate has it as fields of the answer."""
    return {"response": text, **_beside(thought, calls)}


def _beside(thought: str, calls: Sequence[Call]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if thought:
        made["thinking"] = thought
    if calls:
        made["tool_calls"] = [_call_object(call) for call in calls]
    return made


def _call_object(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": input_of(call.arguments)}
    return {"id": call_id(call.id), "function": function}


def complete_calls(calls: Sequence[Call]) -> list[Call]:
    """Those whose arguments are an object. A length may have cut the last one off: then it is
    left out, as nobody may run it, and done_reason says why."""
    return [call for call in calls if _is_object(call.arguments)]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339 with nanoseconds, as Go writes it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z"


def answer_base(model: str, created: float) -> dict[str, Any]:
    """What every answer and every line begins with."""
    return {"model": model, "created_at": timestamp(created)}


def logprob_objects(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Some tokens of the answer, and how likely they were."""
    return [
        {**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]}
        for token in tokens
    ]


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    likely = max(token.logprob, UNLIKELY)
    return {"token": token.token, "logprob": likely, "bytes": list(token.data)}


def done_fields(reply: Reply, finish: Finish) -> dict[str, Any]:
    """How an answer ended, what it counts and how long it took, in nanoseconds. Waiting for a
    slot counts as what Ollama calls loading."""
    usage, timing = reply.choices.usage, reply.choices.first.timing
    return {
        "done": True,
        "done_reason": FINISH_REASONS[finish],
        "total_duration": _nanoseconds(timing.total),
        "load_duration": _nanoseconds(timing.queued),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(timing.prefill),
        "eval_count": usage.completion_tokens,
        "eval_duration": _nanoseconds(timing.decode),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def whole_answer(reply: Reply, choice: Choice, written: Written) -> dict[str, Any]:
    """An answer that is sent at once."""
    calls = complete_calls(choice.calls)
    told = {} if reply.ask.logprobs is None else {"logprobs": logprob_objects(choice.logprobs)}
    return {
        **answer_base(reply.model, reply.created),
        **written(choice.text, choice.thought, calls),
        **told,
        **done_fields(reply, choice.finish),
    }


class Lines:
    """A stream of JSON lines, as an `api.dialect.Writer`. Every line is an object that clients
    parse; a call is sent once it is whole."""

    def __init__(self, reply: Reply, written: Written) -> None:
        self._reply = reply
        self._written = written
        self._base = answer_base(reply.model, reply.created)
        self._held: list[tuple[CallBegun, list[str]]] = []
        """At most one: the call whose arguments are coming."""
        self._finish = Finish.STOP

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """See Writer."""
        said: list[dict[str, Any]] = []
        for part in parts:
            match part:
                case Text(text):
                    said += [*self._calls(), self._written(text, "", ())]
                case Thought(text):
                    said += [*self._calls(), self._written("", text, ())]
                case CallBegun():
                    said += self._calls()
                    self._held = [(part, [])]
                case CallArguments(_, text):
                    self._held[0][1].append(text)
        if self._reply.ask.logprobs is not None and logprobs:
            said = said or [self._written("", "", ())]
            said[0]["logprobs"] = logprob_objects(logprobs)
        return "".join(map(self._line, said))

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """See Writer."""
        self._finish = finish
        return "".join(map(self._line, self._calls()))

    def end(self) -> str:
        """See Writer."""
        done = done_fields(self._reply, self._finish)
        return as_line({**self._base, **self._written("", "", ()), **done}) + "\n"

    def fail(self, error: TandemError) -> str:
        """See Writer: Ollama's clients raise the error that such a line holds."""
        body = error_body(error, ollama_shape)
        if (retry := retry_seconds(error)) is not None:
            body["retry_after"] = retry
        return as_line(body) + "\n"

    def life(self, progress: Progress) -> str:
        """See Writer: a part that says nothing."""
        return self._line(self._written("", "", ()))

    def _calls(self) -> list[dict[str, Any]]:
        """The call that was held, now that it is whole."""
        calls = [Call(one.id, one.name, "".join(rest)) for one, rest in self._held]
        self._held = []
        return [self._written("", "", [call]) for call in complete_calls(calls)]

    def _line(self, fields: dict[str, Any]) -> str:
        return as_line({**self._base, **fields, "done": False}) + "\n"
