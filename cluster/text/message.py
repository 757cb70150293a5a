"""Messages as chat templates know them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

SHORT = 9
"""Characters of a call's id in Mistral's templates, which refuse any other."""


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without fields that are null, its content a string, the arguments of its calls
    mappings: most templates know nothing else."""
    known = {key: value for key, value in message.items() if value is not None}
    known["content"] = _flat(message.get("content"))
    if "tool_calls" in known:
        known["tool_calls"] = [_plain_call(call) for call in known["tool_calls"]]
    return known


def short_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with other ids of calls, the same for the same."""
    shorter = [dict(message) for message in messages]
    for message in shorter:
        if "tool_call_id" in message:
            message["tool_call_id"] = _short(message["tool_call_id"])
        if "tool_calls" in message:
            message["tool_calls"] = [
                {**call, "id": _short(call["id"])} if "id" in call else call
                for call in message["tool_calls"]
            ]
    return shorter


def in_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The same, as templates take it that want one system message, at the beginning, and no two
    users' in a row; and the place that each message has there.

    A system message that comes later is said by the user, where it was: put at the beginning it
    would change the prompt from there on.
    """
    turns: list[dict[str, Any]] = []
    places: list[int] = []
    for message in messages:
        turn = dict(message)
        if turn.get("role") == "system" and any(t.get("role") != "system" for t in turns):
            turn["role"] = "user"
        role = turn.get("role")
        if turns and role in ("system", "user") and turns[-1].get("role") == role:
            said = (turns[-1]["content"], turn["content"])
            turns[-1] = {**turns[-1], "content": "\n\n".join(filter(None, said))}
        else:
            turns.append(turn)
        places.append(len(turns) - 1)
    return turns, places


def _short(call: object) -> str:
    return sha256(str(call).encode(errors="replace")).hexdigest()[:SHORT]


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            function["arguments"] = arguments
    return {**call, "function": function}


def _flat(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)
