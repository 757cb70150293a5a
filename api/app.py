"""The HTTP application: what is served where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route

from api.access import OPEN_POLICY, Access, AccessPolicy
from api.access_log import AccessLog
from api.alone import Alone
from api.bound import MOST_REQUESTS, RequestBound
from api.convert.anthropic import AnthropicMessages
from api.convert.bench import BenchChat
from api.convert.openai_chat import OpenAIChat
from api.convert.openai_completions import OpenAICompletions
from api.errors import on_bug, on_http_error, on_tandem_error
from api.request_id import RequestIds
from api.routes import stored_responses
from api.routes.anthropic import count_tokens
from api.routes.cancel import cancel
from api.routes.docs import docs, openapi
from api.routes.drain import drain
from api.routes.facts import facts
from api.routes.fleet import load, overview, placement, unload
from api.routes.generate import Generate
from api.routes.health import cluster, health
from api.routes.history import history
from api.routes.metrics import metrics
from api.routes.models import list_models, one_model
from api.routes.ollama import ollama_routes
from api.routes.openai_responses import Responses
from api.routes.page import asset, home
from api.routes.requests import requests
from api.routes.streams import LookupStreams, OneStream
from api.routes.tokens import detokenize, tokenize
from api.routes.trace import trace_file
from api.service import Service
from api.serving import Coordinator, Fleet
from api.streams import StreamLimits
from api.traces import Exporter
from cluster.core.clock import Clock
from cluster.core.errors import TandemError

SIGN_OF_LIFE = 4.0
"""Seconds of silence before a stream's sign of life; clients count on one within 5."""


def create_app(
    models: Coordinator | Fleet,
    *,
    sign_of_life: float = SIGN_OF_LIFE,
    access: AccessPolicy = OPEN_POLICY,
    log_prompts: bool = False,
    most_requests: int = MOST_REQUESTS,
    streams: StreamLimits | None = None,
    clock: Clock | None = None,
    trace: int = 0,
    exporter: Exporter | None = None,
) -> Starlette:
    """The API over models, or one coordinator, which outlive it. `api.server` runs it, its lifespan
    too; `clock` is for what streams are kept and leased by, and for the rates of API keys; `trace`
    and `exporter` say which requests are traced (api/traces.py)."""
    fleet = models if isinstance(models, Fleet) else Alone(models)
    service = Service(fleet, sign_of_life, streams, clock, trace=trace, exporter=exporter)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # A server that could not start is cancelled, and says itself why.
        async with service:
            with suppress(asyncio.CancelledError):
                yield

    app = Starlette(
        routes=[
            *_own(service),
            *ollama_routes(service),
            *_versioned(service, "/v1"),
            *_versioned(service, ""),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(RequestIds),
            Middleware(AccessLog, prompts=log_prompts),
            *_cors(access.origins),
            Middleware(Access, access),
            Middleware(RequestBound, most_requests),
        ],
        exception_handlers={
            TandemError: on_tandem_error,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def _own(service: Service) -> list[BaseRoute]:
    """Tandem's own, without a version."""
    fleet = service.fleet
    bench = Generate(service, BenchChat(fleet.view))
    return [
        Route("/health", health(fleet), methods=["GET"]),
        Route("/", home, methods=["GET"]),
        Route("/assets/{name}", asset, methods=["GET"]),
        Route("/cluster", cluster(service), methods=["GET"]),
        Route("/cluster/drain", drain(fleet), methods=["POST"]),
        Route("/requests", requests(service), methods=["GET"]),
        Route("/history", history(fleet), methods=["GET"]),
        Route("/cluster/facts", facts(fleet), methods=["GET"]),
        Route("/requests/{id}/trace", trace_file(service), methods=["GET"]),
        Route("/models", overview(fleet), methods=["GET"]),
        Route("/models/load", load(fleet), methods=["POST"]),
        Route("/models/unload", unload(fleet), methods=["POST"]),
        Route("/models/placement", placement(fleet), methods=["GET"]),
        Route("/metrics", metrics(fleet), methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        Route("/bench/chat/completions", bench, methods=["POST"]),
        Route("/tokenize", tokenize(service), methods=["POST"]),
        Route("/detokenize", detokenize(service), methods=["POST"]),
    ]


def _versioned(service: Service, prefix: str) -> list[BaseRoute]:
    """What clients look for below /v1, and some without it."""
    messages = AnthropicMessages()
    response = f"{prefix}/responses/{{id}}"
    stream = OneStream(service.streams)
    both = ["GET", "DELETE"]
    return [
        Route(f"{prefix}/chat/completions", Generate(service, OpenAIChat()), methods=["POST"]),
        Route(f"{prefix}/completions", Generate(service, OpenAICompletions()), methods=["POST"]),
        Route(f"{prefix}/messages", Generate(service, messages), methods=["POST"]),
        Route(f"{prefix}/messages/count_tokens", count_tokens(service, messages), methods=["POST"]),
        Route(f"{prefix}/responses", Responses(service), methods=["POST"]),
        Route(response, stored_responses.Retrieve(service), methods=["GET"]),
        Route(response, stored_responses.delete(service), methods=["DELETE"]),
        Route(f"{response}/cancel", stored_responses.cancel(service), methods=["POST"]),
        Route(f"{response}/input_items", stored_responses.input_items(service), methods=["GET"]),
        Route(f"{prefix}/stream", stream, methods=both),
        Route(f"{prefix}/stream/{{id:path}}", stream, methods=both),
        Route(f"{prefix}/streams/lookup", LookupStreams(service.streams), methods=["POST"]),
        Route(f"{prefix}/cancel/{{id}}", cancel(service), methods=["POST"]),
        Route(f"{prefix}/models/{{id:path}}", one_model(service.fleet), methods=["GET"]),
        *([Route("/v1/models", list_models(service.fleet), methods=["GET"])] if prefix else []),
    ]


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    """Outside of Access: a browser asks whether it may before it sends a key, and shows a page
    the reason of a refusal only with these headers."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=(
                "x-request-id",
                "retry-after",
                "x-tandem-warning",
                "x-conversation-id",
                "x-stream-earliest",
                "idempotent-replayed",
            ),
        )
    ]
