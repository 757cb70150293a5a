"""Every endpoint, for the OpenAPI document: one entry each. `api.app` makes the routes, and a
test compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from api.errors import FAULTS
from api.routes.drain import DrainRequest
from api.routes.fleet import LoadRequest, UnloadRequest
from api.routes.ollama import REFUSED
from api.schema import answers, server
from api.schema.anthropic import CountRequest, MessagesRequest
from api.schema.bench import BenchRequest
from api.schema.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest
from api.schema.openai_chat import ChatRequest
from api.schema.openai_completions import CompletionsRequest
from api.schema.openai_responses import ResponsesRequest
from api.schema.tokens import DetokenizeRequest, TokenizeRequest

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"
HTML = "text/html"

ANYWHERE = (401, 403, 429, 500, 503)
"""Statuses of errors that have nothing to do with what was asked."""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    """With `{id}` for a part that varies."""
    group: str
    """Under what heading it is shown."""
    summary: str
    answer: Any = None
    """The shape of the answer where it is JSON: a model or a dataclass; None for any other."""
    request: type[BaseModel] | None = None
    """The shape of the body; None for no body."""
    also: tuple[str, ...] = ()
    """Content types that the answer can have instead of JSON, or beside it."""
    error: type[BaseModel] = answers.OpenAIError
    errors: tuple[int, ...] = ANYWHERE
    status: int | None = 200
    """Of an answer that is no error; None where there is none."""
    query: tuple[str, ...] = ()
    """Names of what may follow the path, all optional."""
    bare: bool = False
    """It is at its path without /v1 too."""
    example: Mapping[str, Any] | None = None
    """A body."""


def _all_errors() -> tuple[int, ...]:
    return tuple(sorted({fault.status for fault in FAULTS.values()}))


ALL = _all_errors()
_SAID = {"messages": [{"role": "user", "content": "Say hello"}]}
_FOUND = (*ANYWHERE, 404)


def _ollama(method: str, path: str, summary: str, answer: Any, **more: Any) -> Operation:
    return Operation(method, path, "Ollama", summary, answer, error=answers.OllamaError, **more)


def _refused(path: str, method: str, what: str) -> Operation:
    summary = f"Refused by name: {what} not supported"
    return _ollama(method, path, summary, None, status=None, errors=(400, *ANYWHERE))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "/v1/chat/completions", "OpenAI", "Answer a conversation",
        answers.ChatCompletion, ChatRequest, also=(EVENTS,), errors=ALL, bare=True,
        example=_SAID,
    ),
    Operation(
        "POST", "/v1/completions", "OpenAI", "Continue a text",
        answers.Completion, CompletionsRequest, also=(EVENTS,), errors=ALL, bare=True,
        example={"prompt": "Once upon a time", "max_tokens": 8},
    ),
    Operation(
        "POST", "/v1/responses", "OpenAI", "Answer a conversation that the server may keep",
        answers.StoredResponse, ResponsesRequest, also=(EVENTS,), errors=ALL, bare=True,
        example={"input": "Say hello"},
    ),
    Operation(
        "GET", "/v1/responses/{id}", "OpenAI", "A response that was kept, or its events",
        answers.StoredResponse, also=(EVENTS,), errors=(*_FOUND, 400), bare=True,
        query=("stream", "starting_after"),
    ),
    Operation(
        "DELETE", "/v1/responses/{id}", "OpenAI", "Forget a response; one that runs is stopped",
        answers.ResponseDeleted, errors=_FOUND, bare=True,
    ),
    Operation(
        "POST", "/v1/responses/{id}/cancel", "OpenAI", "Stop a response in the background",
        answers.StoredResponse, errors=(*_FOUND, 400), bare=True,
    ),
    Operation(
        "GET", "/v1/responses/{id}/input_items", "OpenAI", "What a response was asked",
        answers.InputItems, errors=(*_FOUND, 400), bare=True,
        query=("order", "after", "limit"),
    ),
    Operation(
        "GET", "/v1/stream/{id}", "Streams", "Follow a conversation's stream from an offset on",
        also=(EVENTS, LINES, JSON), errors=(*_FOUND, 400), bare=True, query=("from",),
    ),
    Operation(
        "DELETE", "/v1/stream/{id}", "Streams", "Stop a conversation's stream",
        status=204, errors=_FOUND, bare=True,
    ),
    Operation(
        "GET", "/v1/stream", "Streams", "Follow the stream of the conversation ?conv_id=",
        also=(EVENTS, LINES, JSON), errors=(*_FOUND, 400), bare=True, query=("conv_id", "from"),
    ),
    Operation(
        "DELETE", "/v1/stream", "Streams", "Stop the stream of the conversation ?conv_id=",
        status=204, errors=(*ANYWHERE, 400), bare=True, query=("conv_id",),
    ),
    Operation(
        "POST", "/v1/streams/lookup", "Streams", "What is known of some conversations' streams",
        list[server.StreamState], server.Lookup, errors=ALL, bare=True,
        example={"conversation_ids": ["chat-1"]},
    ),
    Operation(
        "GET", "/v1/models", "OpenAI", "List the models that may be asked for",
        answers.OpenAIModels,
    ),
    Operation(
        "GET", "/v1/models/{id}", "OpenAI", "One model; slashes in its name stay as they are",
        answers.OpenAIModel, errors=_FOUND, bare=True,
    ),
    _ollama(
        "POST", "/api/chat", "Answer a conversation", answers.OllamaChatAnswer,
        request=OllamaChatRequest, also=(LINES,), errors=ALL, example=_SAID,
    ),
    _ollama(
        "POST", "/api/generate", "Answer a prompt", answers.OllamaGenerateAnswer,
        request=OllamaGenerateRequest, also=(LINES,), errors=ALL,
        example={"prompt": "Say hello", "stream": False},
    ),
    _ollama("GET", "/api/tags", "List the models that are there", answers.OllamaTags),
    _ollama("GET", "/api/ps", "List the models that are loaded", answers.OllamaProcesses),
    _ollama(
        "POST", "/api/show", "What is known of a model", answers.OllamaShown,
        request=OllamaShowRequest, errors=ALL, example={"model": "name"},
    ),
    _ollama("GET", "/api/version", "The API's version, and Tandem's", answers.OllamaVersion),
    *(_refused(path, method, what) for path, (method, what) in REFUSED.items()),
    Operation(
        "POST", "/tokenize", "Tokens", "The tokens of a text or of a conversation",
        server.Tokens, TokenizeRequest, errors=ALL, example={"content": "Say hello"},
    ),
    Operation(
        "POST", "/detokenize", "Tokens", "The text of some tokens, special ones left out",
        server.TokenText, DetokenizeRequest, errors=ALL, example={"tokens": [1, 2, 3]},
    ),
    Operation(
        "POST", "/v1/cancel/{id}", "Server", "End a request by the id that its answer has",
        server.Cancelled, errors=_FOUND, bare=True,
    ),
    Operation(
        "POST", "/bench/chat/completions", "Server",
        "Answer a conversation, and tell how it was computed",
        server.BenchCompletion, BenchRequest, also=(EVENTS,), errors=ALL,
        example={**_SAID, "use_prefix_cache": False},
    ),
    Operation(
        "POST", "/v1/messages", "Anthropic", "Answer a conversation", answers.AnthropicMessage,
        MessagesRequest, also=(EVENTS,), error=answers.AnthropicError, errors=ALL, bare=True,
        example={**_SAID, "max_tokens": 100},
    ),
    Operation(
        "POST", "/v1/messages/count_tokens", "Anthropic", "The tokens that a prompt would have",
        answers.TokenCount, CountRequest, error=answers.AnthropicError, errors=ALL, bare=True,
        example=_SAID,
    ),
    Operation("GET", "/metrics", "Server", "Counts and times, for Prometheus", also=(TEXT,)),
    Operation(
        "GET", "/requests/{id}/trace", "Server",
        "What happened to a request and when, for Perfetto; `last` for the latest",
        server.TraceFile, errors=_FOUND,
    ),
    Operation("GET", "/health", "Server", "Whether it makes progress", server.HealthAnswer),
    Operation(
        "GET", "/cluster", "Server", "Everything at this moment, of one group", server.Cluster,
        errors=(*_FOUND, 400), query=("model", "replica", "without"),
    ),
    Operation(
        "GET", "/requests", "Server", "What is under way, page by page", server.LiveRequests,
        errors=(*ANYWHERE, 400), query=("phase", "offset", "limit"),
    ),
    Operation(
        "GET", "/history", "Server", "The last hour, one sample every few seconds",
        server.History, errors=(*_FOUND, 400), query=("model", "replica", "after"),
    ),
    Operation(
        "POST", "/cluster/drain", "Server", "Move work off a machine, so that it can be unplugged",
        server.Member, DrainRequest, errors=(400, 401, 403, 404, 413),
        example={"node": "studio-2"},
    ),
    Operation(
        "GET", "/models", "Server", "All models: which are loaded, where, and for how long",
        server.Models,
    ),
    Operation(
        "POST", "/models/load", "Server", "Have a model loaded, and pinned",
        server.Model, LoadRequest, errors=ALL, status=202, example={"model": "name"},
    ),
    Operation(
        "POST", "/models/unload", "Server", "Have a model unloaded, once it has no request",
        server.Model, UnloadRequest, errors=ALL, example={"model": "name"},
    ),
    Operation(
        "GET", "/models/placement", "Server", "On which machines a model would go now",
        server.Placement, errors=(*_FOUND, 400), query=("model",),
    ),
    Operation(
        "GET", "/", "Server", "The dashboard for browsers, and for others the greeting by which "
        "Ollama's clients know it", also=(HTML, TEXT),
    ),
    Operation(
        "GET", "/assets/{name}", "Server", "A file of the dashboard",
        also=("text/javascript", "text/css", "image/svg+xml"), errors=_FOUND,
    ),
    Operation(
        "GET", "/cluster/facts", "Server", "What every machine finds at itself; takes seconds",
        server.Survey,
    ),
    Operation("GET", "/openapi.json", "Server", "This document", dict[str, Any]),
    Operation("GET", "/docs", "Server", "This document, for people", also=(HTML,)),
)  # fmt: skip
