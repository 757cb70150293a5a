"""OpenAI's `tools`, `tool_choice` and the calls in its messages, as the core has them."""

from __future__ import annotations

import json
from typing import Any

from api.convert.fields import checked
from api.schema.openai_tools import NamedChoice, Tools
from cluster.core.errors import InvalidRequest
from cluster.text.json_scan import too_deep


def tools_of(tools: Any, choice: Any) -> tuple[tuple[dict[str, Any], ...], str, str]:
    """(tools, choice, named) of an `api.ask.Chat`; raises InvalidRequest when they make no
    sense."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
        return (), "none", ""
    names = {tool.function.name for tool in checked(Tools, {"tools": tools}).tools}
    if choice is None:
        choice = "auto"
    if choice in ("none", "auto", "required"):
        return tuple(tools), choice, ""
    name = checked(NamedChoice, {"tool_choice": choice}).tool_choice.function.name
    if name not in names:
        raise InvalidRequest(
            f"tool_choice: {name!r} is none of the tools", param="tool_choice.function.name"
        )
    return tuple(tools), "required", name


def arguments_of(text: Any) -> dict[str, Any]:
    """A call's arguments, which clients send back as the JSON they were given. What is none, as
    a model may have written it, is kept whole under the name "arguments"."""
    if isinstance(text, dict):
        return text
    try:
        value = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError):
        value = text
    if too_deep(value):
        value = text
    return value if isinstance(value, dict) else {"arguments": value}
