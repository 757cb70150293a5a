"""The shapes of what dialects answer, for the OpenAPI document; the answers are written by them.

Lists and objects that other fields hold are shown as far as clients commonly read them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """What documents itself by the texts below its fields."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class OpenAIErrorBody(Answer):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    """The field that was wrong."""
    code: str | None


class OpenAIError(Answer):
    """OpenAI's error object."""

    error: OpenAIErrorBody


class AnthropicErrorBody(Answer):
    """What was wrong."""

    type: str
    message: str


class AnthropicError(Answer):
    """Anthropic's error object."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str


class OllamaError(Answer):
    """Ollama's error object."""

    error: str


class Usage(Answer):
    """Token counts; those of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    """`cached_tokens`: prompt tokens that a cached prefix held."""


class AnswerMessage(Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = []


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    """Unix time, in seconds."""
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class StoredResponse(Answer):
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


class ResponseDeleted(Answer):
    """A response is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(Answer):
    """Some of what a response was asked."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAIModel(Answer):
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


class OpenAIModels(Answer):
    """All models."""

    object: Literal["list"]
    data: list[OpenAIModel]


class OllamaDone(Answer):
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


class OllamaAnswerMessage(Answer):
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


class OllamaModelDetails(Answer):
    """What Ollama tells of a model file."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaTag(Answer):
    """A model that is there."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    """Of its name."""
    details: OllamaModelDetails


class OllamaTags(Answer):
    """All models."""

    models: list[OllamaTag]


class OllamaProcess(Answer):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: OllamaModelDetails
    expires_at: str
    context_length: int


class OllamaProcesses(Answer):
    """All models that are loaded."""

    models: list[OllamaProcess]


class OllamaShown(Answer):
    """What is known of a model."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(Answer):
    """The version of Ollama whose API this is, and Tandem's."""

    version: str
    tandem: str


class AnthropicUsage(Answer):
    """Token counts; the first three are the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(Answer):
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


class TokenCount(Answer):
    """How long a prompt is."""

    input_tokens: int
