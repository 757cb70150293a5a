"""What clients send to /v1/chat/completions.

Types and ranges are strict; fields that are not named here are ignored. What is understood but
not possible is kept as it came, for `api.convert.openai_refuse` to look at.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_STOPS = 4
MAX_STOP_LENGTH = 1000
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20


def _as_list(value: Any) -> Any:
    """A lone string counts as a list of one."""
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    """A lone string counts as a list of one text part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Shape(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Part(_Shape):
    """Some of a message's content."""

    type: str
    text: str | None = None


class CalledFunction(_Shape):
    """What was called, and how."""

    name: str
    arguments: Any = None
    """JSON; some clients send it parsed."""


class ToolCall(_Shape):
    """A call that the assistant has made."""

    id: str | None = None
    type: str | None = None
    function: CalledFunction


class ChatMessage(_Shape):
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


class StreamOptions(_Shape):
    """What else a stream carries."""

    include_usage: bool | None = None


class TemplateOptions(_Shape):
    """vLLM's way to tell the chat template something."""

    enable_thinking: bool | None = None


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOPS)]


class ChatRequest(_Shape):
    """The whole request."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = None
    stop: (
        Annotated[Stops, BeforeValidator(_as_list, json_schema_input_type=StopString | Stops)]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    reasoning_effort: str | None = None
    """"none" turns reasoning off, where the model's template can be told."""
    chat_template_kwargs: TemplateOptions | None = None

    # Looked at by api.convert.openai_format and openai_tools.
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    tools: Any = None
    tool_choice: Any = None

    # Understood, and refused by name where they ask for something.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    stop_token_ids: Any = None
