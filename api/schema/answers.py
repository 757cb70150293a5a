"""The shapes of what is answered, for the OpenAPI document; answers are written by the dialects.

Lists and objects that other fields hold are shown as far as clients commonly read them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.core import facts
from cluster.core.request import Phase
from cluster.core.view import ClusterView, MemberView, ModelView, PlacementView


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class OpenAIErrorBody(_Answer):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    """The field that was wrong."""
    code: str | None


class OpenAIError(_Answer):
    """OpenAI's error object."""

    error: OpenAIErrorBody


class AnthropicErrorBody(_Answer):
    """What was wrong."""

    type: str
    message: str


class AnthropicError(_Answer):
    """Anthropic's error object."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str


class OllamaError(_Answer):
    """Ollama's error object."""

    error: str


class Usage(_Answer):
    """Token counts; those of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    """`cached_tokens`: prompt tokens that a cached prefix held."""


class AnswerMessage(_Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = []


class ChatChoice(_Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(_Answer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    """Unix time, in seconds."""
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(_Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class Completion(_Answer):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class StoredResponse(_Answer):
    """OpenAI's response, as far as it has come."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    """Items of the types reasoning, message and function_call."""
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None


class ResponseDeleted(_Answer):
    """A response is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(_Answer):
    """Some of what a response was asked."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Lookup(BaseModel):
    """Which conversations are asked for."""

    conversation_ids: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1024)]


class StreamState(_Answer):
    """What is known of one conversation's stream."""

    conversation_id: str
    is_done: bool
    total_bytes: int
    earliest_offset: int
    started_at: float
    completed_at: float
    """0 while it runs."""


class BenchStep(_Answer):
    """One step that computed for the request."""

    kind: Literal["prefill", "decode"]
    tokens: int
    seconds: list[float]
    """On each rank."""


class BenchReport(_Answer):
    """How the first choice was computed; times in seconds, speeds in tokens per second. A speed
    is null where there was nothing to measure."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_seconds: float | None
    """From submission to the first token."""
    prompt_tokens_per_second: float | None
    """Of prompt tokens that no cache held."""
    generation_tokens_per_second: float | None
    """Of tokens after the first."""
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    ranks: int
    peak_memory_bytes: int
    """Most that a rank has used at once."""
    steps: list[BenchStep]
    """The latest steps."""


class BenchCompletion(ChatCompletion):
    """A chat completion, and how it was computed."""

    bench: BenchReport


class OpenAIModel(_Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    """Longest prompt plus answer, in tokens."""
    demo: bool
    state: Literal["loaded", "loading", "unloaded", "failed"] = "loaded"
    """One that is not loaded is when it is asked for."""


class OpenAIModels(_Answer):
    """All models."""

    object: Literal["list"]
    data: list[OpenAIModel]


class Models(OpenAIModels):
    """All models, as OpenAI has them and with all that is known of them."""

    models: list[ModelView]
    keep_alive_seconds: float | None = None
    """Without a request, after which a model that was loaded for one is unloaded."""


class OllamaDone(_Answer):
    """How an answer ended; durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int = 0
    load_duration: int = 0
    """Waiting for a slot."""
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[dict[str, Any]] = []


class OllamaAnswerMessage(_Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class OllamaChatAnswer(OllamaDone):
    """Ollama's answer to a chat."""

    message: OllamaAnswerMessage


class OllamaGenerateAnswer(OllamaDone):
    """Ollama's answer to a prompt."""

    response: str
    thinking: str = ""


class OllamaModelDetails(_Answer):
    """What Ollama tells of a model file."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaTag(_Answer):
    """A model that is there."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    """Of its name."""
    details: OllamaModelDetails


class OllamaTags(_Answer):
    """All models."""

    models: list[OllamaTag]


class OllamaProcess(_Answer):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: OllamaModelDetails
    expires_at: str
    context_length: int


class OllamaProcesses(_Answer):
    """All models that are loaded."""

    models: list[OllamaProcess]


class OllamaShown(_Answer):
    """What is known of a model."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(_Answer):
    """The version of Ollama whose API this is, and Tandem's."""

    version: str
    tandem: str


class AnthropicUsage(_Answer):
    """Token counts; the first three are the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(_Answer):
    """An answer in Anthropic's shape."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    """Blocks of the types thinking, text and tool_use."""
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: AnthropicUsage


class TokenCount(_Answer):
    """How long a prompt is."""

    input_tokens: int


class Tokens(_Answer):
    """The ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] = []
    """Each token's text, where asked for; parts of a character show as U+FFFD."""


class TokenText(_Answer):
    """The text of some ids."""

    prompt: str
    content: str
    """The same."""


class Cancelled(_Answer):
    """A request that was ended."""

    id: str
    cancelled: Literal[True]


class LiveRequest(_Answer):
    """One request that is under way."""

    id: str
    """As its answer has it; /v1/cancel/{id} ends it."""
    dialect: str
    key: str
    """Name of the API key; empty where none is needed."""
    phase: Phase
    prompt_tokens: int
    prefilled: int
    """Of the prompt, cached tokens included."""
    generated: int
    cached_tokens: int
    tokens_per_second: float
    """Since its first token; 0 before the second."""
    age_seconds: float


class LiveRequests(_Answer):
    """Some of what is under way, the oldest first."""

    total: int
    """Of those that match and that the key may see: its own, or with --operator all."""
    offset: int
    all_visible: bool
    """The key may see the requests of all."""
    phases: dict[Phase, int]
    """How many there are of all keys."""
    requests: list[LiveRequest]


Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
"""Two numbers. As a tuple it would be "prefixItems", which schemathesis misreads."""


class History(_Answer):
    """Samples of the last hour, the oldest first: one list for each field. Null where there was
    nothing to measure."""

    every_seconds: float
    now: float
    """Seconds since the server started, as `at`."""
    number: list[int]
    """Grows by one; for ?after=."""
    at: list[float]
    epoch: list[int]
    """0 between epochs."""
    decode_tokens_per_second: list[float]
    prefill_tokens_per_second: list[float]
    queued: list[int]
    running: list[int]
    first_token_seconds: list[Pair | None]
    """Median and 95th percentile, from submission."""
    inter_token_seconds: list[Pair | None]
    """The same from one token to the next."""
    cached_share: list[float | None]
    """Of prompt tokens, those that a cached prefix held."""
    step_seconds: list[list[float | None]]
    """By rank: mean time of a decode step by its own clock, waits for other ranks included."""
    read_bytes_per_second: list[list[float | None]]
    """By rank: how fast it read its own weights, alone; measured every 256 steps."""


class TraceFile(_Answer):
    """What Perfetto opens: Chrome's trace events."""

    displayTimeUnit: Literal["ms"]  # noqa: N815 - the format's names
    otherData: dict[str, Any]  # noqa: N815
    traceEvents: list[dict[str, Any]]  # noqa: N815


class HealthAnswer(_Answer):
    """Whether the cluster makes progress."""

    status: Literal["ok", "unhealthy"]
    reason: str


Cluster = ClusterView
Member = MemberView
Survey = facts.Survey
"""GET /cluster answers it field by field."""
Model = ModelView
Placement = PlacementView
