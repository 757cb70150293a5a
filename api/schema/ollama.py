"""What clients send to /api/chat, /api/generate and /api/show
(https://github.com/ollama/ollama/blob/main/docs/api.md).

Types and ranges are strict, but for whole numbers that come as 40.0; fields and options that are
not named here are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.schema.openai_common import MAX_STOP_LENGTH, MAX_TOP_LOGPROBS, Shape, as_list

MAX_STOPS = 16


def _whole(value: Any) -> Any:
    """Clients that have one type of number send 40.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)
Whole = Annotated[int, _WHOLE]
Duration = Annotated[str, Field(pattern=r"^-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+$|^-?\d+(\.\d+)?$")]
"""As Go writes them: "5m", "1h30m"."""

StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOPS)]


class OllamaOptions(Shape):
    """How the answer is sampled; what concerns the loading of models (num_ctx, num_gpu, ...) is
    settled when the server is started, and ignored here."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1), _WHOLE] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Whole | None = None
    """-1 for a random one."""
    num_predict: Annotated[int, Field(ge=-2), _WHOLE] | None = None
    """Most tokens of the answer; 0 and less for as many as the context leaves."""
    stop: (
        Annotated[Stops, BeforeValidator(as_list, json_schema_input_type=StopString | Stops)] | None
    ) = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class OllamaFunction(Shape):
    """What was called, and how."""

    name: str
    arguments: dict[str, Any] | str | None = None
    """An object; some clients send it as JSON."""


class OllamaCall(Shape):
    """A call that the assistant has made."""

    id: str | None = None
    function: OllamaFunction


class OllamaMessage(Shape):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Any = None
    """Refused: this version reads text."""


class _Asked(Shape):
    """What both generating paths take."""

    model: str | None = None
    """The served model's name, with or without ":latest"."""
    stream: bool | None = None
    """True unless it is said to be false."""
    format: Any = None
    """"json" or a JSON schema, which the answer then conforms to."""
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    """Whether the model is to reason first, where its template can be told."""
    keep_alive: Duration | float | None = None
    """How long a model that was loaded for requests is kept after the last one: in seconds or as
    Go writes it; negative for ever. 0, and nothing to answer, unloads any that is not pinned."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), _WHOLE] | None = None


class OllamaChatRequest(_Asked):
    """A request to /api/chat."""

    messages: list[OllamaMessage] | None = None
    """With none, the model is loaded, and nothing is generated."""
    tools: Any = None
    """As OpenAI has them."""


class OllamaGenerateRequest(_Asked):
    """A request to /api/generate."""

    prompt: str | None = None
    """With none, the model is loaded, and nothing is generated."""
    system: str | None = None
    raw: bool | None = None
    """The prompt goes to the model as it is, without a chat template."""
    suffix: Any = None
    """Refused."""
    template: Any = None
    """Refused."""
    images: Any = None
    """Refused: this version reads text."""


class OllamaShowRequest(Shape):
    """A request to /api/show."""

    model: str | None = None
    name: str | None = None
    """The same, by its older name."""
