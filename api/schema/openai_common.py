"""What OpenAI's generating paths have in common: how an answer is sampled, and its form.

Types and ranges are strict; fields that are not named are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_STOPS = 4
MAX_STOP_LENGTH = 1000
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20


def as_list(value: Any) -> Any:
    """A lone string counts as a list of one."""
    return [value] if isinstance(value, str) else value


class Shape(BaseModel):
    """Base of everything that clients send."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class StreamOptions(Shape):
    """What else a stream carries."""

    include_usage: bool | None = None


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOPS)]


class Sampled(Shape):
    """How an answer is sampled, and when it ends; OpenAI's fields and those of other servers."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
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
        Annotated[Stops, BeforeValidator(as_list, json_schema_input_type=StopString | Stops)] | None
    ) = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None

    # Understood, and refused by name where it asks for something.
    stop_token_ids: Any = None


class Formed(Shape):
    """What an answer must be like; looked at by `api.convert.openai_format`."""

    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
