"""What clients send to /v1/chat/completions.

Types and ranges are strict; fields that are not named here are ignored. What is understood but
not possible is kept as it came, for `api.convert.openai_refuse` to look at.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.schema.openai_common import MAX_CHOICES, MAX_TOP_LOGPROBS, Formed, Sampled, Shape


def _as_parts(value: Any) -> Any:
    """A lone string counts as a list of one text part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Part(Shape):
    """Some of a message's content."""

    type: str
    text: str | None = None


class CalledFunction(Shape):
    """What was called, and how."""

    name: str
    arguments: Any = None
    """JSON; some clients send it parsed."""


class ToolCall(Shape):
    """A call that the assistant has made."""

    id: str | None = None
    type: str | None = None
    function: CalledFunction


class ChatMessage(Shape):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        list[Part] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[Part] | None),
    ] = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """The same, by the name that some clients use."""
    function_call: Any = None
    audio: Any = None


class TemplateOptions(Shape):
    """vLLM's way to tell the chat template something."""

    enable_thinking: bool | None = None


class ChatRequest(Sampled, Formed):
    """The whole request."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    reasoning_effort: str | None = None
    """"none" turns reasoning off, where the model's template can be told."""
    chat_template_kwargs: TemplateOptions | None = None

    # Looked at by api.convert.openai_tools.
    tools: Any = None
    tool_choice: Any = None

    # Understood, and refused by name where they ask for something.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
