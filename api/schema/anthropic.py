"""What clients send to /v1/messages and /v1/messages/count_tokens
(https://docs.anthropic.com/en/api/messages).

Types and ranges are strict; fields that are not named here are ignored, among them
`cache_control`, `metadata` and `service_tier`. Content of a type that is not known keeps nothing
but its type, which the refusal names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.schema.openai_common import MAX_STOPS, StopString
from api.schema.openai_tools import Name

MAX_TOOLS = 512
LEAST_BUDGET = 1024
"""Tokens; Anthropic's own bound."""

KNOWN_BLOCKS = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})


def _as_blocks(value: Any) -> Any:
    """A lone string counts as a list of one text block."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class _Typed(_Shape):
    """Something whose type may be one that is not known."""

    type: str

    @model_validator(mode="before")
    @classmethod
    def _only_its_type(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        return {"type": kind} if isinstance(kind, str) and kind not in KNOWN_BLOCKS else value


class TextBlock(_Typed):
    """A part of a system prompt, or of what a tool has answered."""

    text: str | None = None


class Block(_Typed):
    """Some of a turn; which fields it has depends on its type."""

    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Annotated[list[TextBlock] | None, BeforeValidator(_as_blocks)] = None
    is_error: bool | None = None


class Turn(_Shape):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BeforeValidator(_as_blocks)]


class Tool(_Shape):
    """One of `tools`; one without a schema is Anthropic's own."""

    type: str | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(_Shape):
    """Which tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(_Shape):
    """Whether the model is to reason first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(_Shape):
    """The form that the answer must have."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(_Shape):
    """Where the format is said; its other fields change nothing."""

    format: OutputFormat | None = None


class CountRequest(_Shape):
    """A request whose tokens are to be counted: all that can be in a whole one."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    system: Annotated[list[TextBlock] | None, BeforeValidator(_as_blocks)] = None
    stream: bool | None = None
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The same by its older name."""

    # Understood, and refused by name where they ask for something.
    mcp_servers: Any = None
    container: Any = None
    thread: Any = None
    """A conversation held by the server; Anthropic's tool runner goes on without when refused."""
    compaction: Any = None


class MessagesRequest(CountRequest):
    """The whole request."""

    max_tokens: Annotated[int, Field(ge=1)]
