"""`tools` and `tool_choice` of OpenAI's responses. Pure.

Tools that are no functions (Codex always sends some: custom, local_shell, web_search) are left
out, and a warning says so: to refuse them would refuse such clients altogether.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.convert.fields import checked
from api.schema.openai_responses import AnyTool, FunctionTool, NamedChoice, ResponsesRequest
from cluster.core.errors import InvalidRequest, Unsupported

FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class AskedTools:
    """What may be called."""

    tools: tuple[dict[str, Any], ...]
    """As `api.ask.Chat` has them."""
    choice: str
    named: str
    told: list[dict[str, Any]]
    """All of them, as the response repeats them."""
    warning: str = ""


def tools_of(asked: ResponsesRequest) -> AskedTools:
    """Raises InvalidRequest when they make no sense, and Unsupported for a choice that is not
    understood."""
    functions = [
        _function(tool, index)
        for index, tool in enumerate(asked.tools or ())
        if tool.type == FUNCTION
    ]
    left_out = sorted({tool.type for tool in asked.tools or () if tool.type != FUNCTION})
    choice, named = _choice(asked.tool_choice, {tool.name for tool in functions})
    return AskedTools(
        tuple(_nested(tool) for tool in functions),
        choice if functions else "none",
        named,
        [_told(tool) for tool in asked.tools or ()],
        f"tools of the types {', '.join(left_out)} are left out" if left_out else "",
    )


def _function(tool: AnyTool, index: int) -> FunctionTool:
    try:
        return checked(FunctionTool, tool.model_dump())
    except InvalidRequest as error:
        place = f"tools[{index}]."
        raise InvalidRequest(f"{place}{error}", param=f"{place}{error.param}") from error


def _choice(choice: Any, names: set[str]) -> tuple[str, str]:
    """The choice and, where it is "required", the one tool that must be called."""
    if choice in (None, "none", "auto"):
        return choice or "auto", ""
    if choice == "required":
        if not names:
            raise InvalidRequest("tool_choice: there are no functions to call", param="tool_choice")
        return choice, ""
    if isinstance(choice, str):
        raise InvalidRequest(
            "tool_choice: should be 'none', 'auto', 'required' or an object", param="tool_choice"
        )
    wanted = checked(NamedChoice, {"tool_choice": choice}).tool_choice
    if wanted.type != FUNCTION:
        raise Unsupported(
            f"tool_choice.type: {wanted.type[:100]!r} is not supported by this version of Tandem",
            param="tool_choice.type",
        )
    if wanted.name not in names:
        raise InvalidRequest(
            f"tool_choice.name: {str(wanted.name)[:100]!r} is none of the functions",
            param="tool_choice.name",
        )
    return "required", wanted.name


def _nested(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": FUNCTION, "function": function}


def _told(tool: AnyTool) -> dict[str, Any]:
    told = tool.model_dump()
    if tool.type == FUNCTION:
        told = {"description": None, "parameters": None, "strict": None, **told}
    return told
