"""Anthropic's `tools` and `tool_choice`, as the core has them. Pure."""

from __future__ import annotations

from typing import Any

from api.schema.anthropic import Tool, ToolChoice
from cluster.core.errors import InvalidRequest, Unsupported

_CHOICES = {"auto": "auto", "none": "none", "any": "required", "tool": "required"}


def tools_of(
    tools: list[Tool] | None, choice: ToolChoice | None
) -> tuple[tuple[dict[str, Any], ...], str, str]:
    """(tools, choice, named) of an `api.ask.Chat`; raises RequestError when they make no sense,
    or name a tool that Anthropic runs or describes itself.

    `disable_parallel_tool_use` is held to where a call is demanded, which is always one.
    """
    made = tuple(_function(tool, f"tools[{index}]") for index, tool in enumerate(tools or ()))
    names = [tool["function"]["name"] for tool in made]
    twice = next((index for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidRequest(
            f"tools[{twice}].name: another tool is called {names[twice]!r} too",
            param=f"tools[{twice}].name",
        )
    if choice is None:
        return made, "auto" if made else "none", ""
    kind = _CHOICES[choice.type]
    if not made:
        if kind == "required":
            raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
        return (), "none", ""
    return made, kind, _named(choice, names) if choice.type == "tool" else ""


def _named(choice: ToolChoice, names: list[str]) -> str:
    if choice.name is None:
        raise InvalidRequest("tool_choice.name: field required", param="tool_choice.name")
    if choice.name not in names:
        raise InvalidRequest(
            f"tool_choice.name: {choice.name[:200]!r} is none of the tools",
            param="tool_choice.name",
        )
    return choice.name


def _function(tool: Tool, where: str) -> dict[str, Any]:
    """One tool, as OpenAI and chat templates have it."""
    if tool.type not in (None, "custom"):
        raise Unsupported(
            f"{where}: tools of the type {tool.type[:200]!r} are Anthropic's own and not "
            "supported; those with an input_schema are",
            param=where,
        )
    schema = tool.input_schema
    if schema is None:
        raise InvalidRequest(f"{where}.input_schema: field required", param=f"{where}.input_schema")
    if schema.get("type", "object") != "object":
        raise InvalidRequest(
            f"{where}.input_schema.type: should be 'object'", param=f"{where}.input_schema.type"
        )
    described = {} if tool.description is None else {"description": tool.description}
    return {
        "type": "function",
        "function": {"name": tool.name, **described, "parameters": schema},
    }
