"""What clients send to /v1/responses; see `openai_common`.

An item of the input has one shape with all fields of all types; which of them a type must have
is checked in `api.convert.openai_responses_items`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from api.schema.openai_common import MAX_TOP_LOGPROBS, Sampled, Shape
from api.schema.openai_tools import MAX_TOOLS, Name

MAX_ITEMS = 10_000
MAX_METADATA = 16


def _as_parts(value: Any) -> Any:
    """A lone string counts as a list of one text part."""
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


def _as_items(value: Any) -> Any:
    """A lone string is what the user says."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ItemPart(Shape):
    """Some of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[ItemPart], BeforeValidator(_as_parts)]


class Item(Shape):
    """Something that was said, done or thought."""

    type: str | None = None
    """A message without one, or a reference where there is nothing but an id."""
    id: str | None = None
    role: Literal["user", "system", "developer", "assistant"] | None = None
    content: Parts | None = None
    summary: Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    """JSON; some clients send it parsed."""
    output: Parts | None = None
    input: Any = None
    action: Any = None


class AnyTool(Shape):
    """One of `tools`; what else there is depends on the type."""

    model_config = ConfigDict(extra="allow")

    type: str


class FunctionTool(Shape):
    """One of `tools` of the type "function"."""

    type: str
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Shape):
    """`tool_choice`, where it is no word."""

    type: str
    name: str | None = None


class NamedChoice(Shape):
    """The field with its name, which errors repeat."""

    tool_choice: NamedTool


class Reasoning(Shape):
    """How much the model is to reason, and how that is told."""

    effort: str | None = None
    """"none" turns reasoning off, where the model's template can be told."""
    summary: str | None = None
    """With one, reasoning is told as the item's summary instead of its content."""


class TextOptions(Shape):
    """What the answer's text is like."""

    format: Any = None
    verbosity: str | None = None


class TemplateOptions(Shape):
    """vLLM's way to tell the chat template something."""

    enable_thinking: bool | None = None


class ResponsesRequest(Sampled):
    """The whole request."""

    input: Annotated[
        list[Item], BeforeValidator(_as_items), Field(min_length=1, max_length=MAX_ITEMS)
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """Of tools that OpenAI runs; there are none here."""
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    """Looked at by `api.convert.openai_responses_tools`."""
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: TemplateOptions | None = None
    text: TextOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[str] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=MAX_METADATA),
        ]
        | None
    ) = None
    truncation: Literal["auto", "disabled"] | None = None
    """A hint that is not followed: what does not fit is refused."""
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None

    # Understood, and refused by name where they ask for something.
    conversation: Any = None
    prompt: Any = None
