"""What clients send as `tools` and, to say which is to be called, `tool_choice`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TOOLS = 128


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


Name = Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]


class Function(_Shape):
    """Something that a model may call."""

    name: Name
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments; any object without one."""


class Tool(_Shape):
    """One of `tools`."""

    type: Literal["function"]
    function: Function


class Tools(_Shape):
    """All of them."""

    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)]


class NamedFunction(_Shape):
    """The function that must be called."""

    name: Name


class NamedTool(_Shape):
    """`tool_choice`, where it is no word."""

    type: Literal["function"]
    function: NamedFunction


class NamedChoice(_Shape):
    """The field with its name, which errors repeat."""

    tool_choice: NamedTool
