"""The HTTP application: what is served where."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from api.access import OPEN_POLICY, Access, AccessPolicy
from api.access_log import AccessLog
from api.bound import MOST_REQUESTS, RequestBound
from api.convert.anthropic import AnthropicMessages
from api.convert.bench import BenchChat
from api.convert.openai_chat import OpenAIChat
from api.errors import on_bug, on_http_error, on_tandem_error
from api.request_id import RequestIds
from api.routes.anthropic import CountTokens
from api.routes.cancel import cancel
from api.routes.docs import docs, openapi
from api.routes.generate import Generate
from api.routes.health import cluster, health
from api.routes.metrics import metrics
from api.routes.models import list_models, one_model
from api.routes.ollama import ollama_routes
from api.routes.tokens import detokenize, tokenize
from api.service import Service
from api.serving import Coordinator
from cluster.core.errors import TandemError

SIGN_OF_LIFE = 4.0
"""Seconds of silence before a stream's sign of life; clients count on one within 5."""


def create_app(
    coordinator: Coordinator,
    *,
    sign_of_life: float = SIGN_OF_LIFE,
    access: AccessPolicy = OPEN_POLICY,
    log_prompts: bool = False,
    most_requests: int = MOST_REQUESTS,
) -> Starlette:
    """The API over a coordinator, which outlives it. `api.server` runs it."""
    service = Service(coordinator, sign_of_life)
    chat = Generate(service, OpenAIChat())
    messages = Generate(service, AnthropicMessages())
    count_tokens = CountTokens(service, AnthropicMessages())
    bench = Generate(service, BenchChat(coordinator.view))
    routes = [
        Route("/health", health(coordinator), methods=["GET"]),
        Route("/cluster", cluster(coordinator), methods=["GET"]),
        Route("/metrics", metrics(coordinator), methods=["GET"]),
        Route("/bench/chat/completions", bench, methods=["POST"]),
        Route("/tokenize", tokenize(service), methods=["POST"]),
        Route("/detokenize", detokenize(service), methods=["POST"]),
        *ollama_routes(service),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
    ]
    for prefix in ("/v1", ""):
        routes += [
            Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
            Route(f"{prefix}/messages", messages, methods=["POST"]),
            Route(f"{prefix}/messages/count_tokens", count_tokens, methods=["POST"]),
            Route(f"{prefix}/cancel/{{id}}", cancel(service), methods=["POST"]),
            Route(f"{prefix}/models", list_models(coordinator), methods=["GET"]),
            Route(f"{prefix}/models/{{id:path}}", one_model(coordinator), methods=["GET"]),
        ]
    app = Starlette(
        routes=routes,
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
    return app


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
            expose_headers=("x-request-id", "retry-after", "x-tandem-warning"),
        )
    ]
