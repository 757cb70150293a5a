"""What Ollama's clients ask beside answers: which models there are, and that one be loaded."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.body import parse_object, read_body
from api.convert.fields import checked
from api.convert.ollama import OllamaChat, OllamaGenerate, loads, served_name
from api.convert.ollama_answer import answer_base, chat_part, generate_part, timestamp
from api.errors import error_answer, ollama_shape
from api.request_id import request_id
from api.routes.generate import Generate
from api.routes.models import Endpoint, check_model
from api.routes.posted import posted
from api.schema.ollama import OllamaShowRequest
from api.service import Service
from api.serving import Coordinator
from cluster.core.errors import InvalidRequest, NotReady, TandemError, Unsupported
from cluster.core.versions import versions
from cluster.core.view import ServedModel

API_LEVEL = "0.12.11"
"""The version of Ollama whose API this is (it brought logprobs). Clients compare it with the
least that they need, so it can't be Tandem's."""

ARCHITECTURE = "mlx"
"""What the model is run by: the coordinator doesn't know its family."""

NEVER = "2318-01-01T00:00:00Z"
"""When the model will be unloaded; far off, as Ollama has it for one that is kept."""

SMALL = 1 << 16
"""Bytes of a body that may have nothing to answer; such a body has hardly more than a name."""

REFUSED = {
    "/api/embed": ("POST", "embeddings are"),
    "/api/embeddings": ("POST", "embeddings are"),
    "/api/pull": ("POST", "fetching models over this API is"),
    "/api/push": ("POST", "uploading models is"),
    "/api/create": ("POST", "making models is"),
    "/api/copy": ("POST", "copying models is"),
    "/api/delete": ("DELETE", "deleting models is"),
}
"""Paths of Ollama that are understood and not possible: method, and what it is."""


async def greeting(request: Request) -> Response:
    """GET /: by its first line Ollama's clients know that it is there."""
    text = "Ollama is running\n(This is Tandem, which also speaks Ollama's API; see /docs.)\n"
    return PlainTextResponse(text)


def refused(what: str) -> Endpoint:
    """Always Unsupported."""

    async def endpoint(request: Request) -> Response:
        raise Unsupported(f"{what} not supported by this version of Tandem")

    return endpoint


async def version(request: Request) -> Response:
    """GET /api/version."""
    return JSONResponse({"version": API_LEVEL, "tandem": versions().tandem})


def tags(coordinator: Coordinator) -> Endpoint:
    """GET /api/tags: all models, the one."""

    async def endpoint(request: Request) -> Response:
        size = sum(rank.weight_bytes for rank in coordinator.view().ranks)
        model = coordinator.model
        entry = {**_named(model), "modified_at": timestamp(model.created), "size": size}
        return JSONResponse({"models": [entry]})

    return endpoint


def loaded(coordinator: Coordinator) -> Endpoint:
    """GET /api/ps: the models that are in memory."""

    async def endpoint(request: Request) -> Response:
        view = coordinator.view()
        size = sum(rank.memory_bytes for rank in view.ranks)
        entry = {
            **_named(view.model),
            "size": size,
            "size_vram": size,
            "expires_at": NEVER,
            "context_length": view.model.context,
        }
        return JSONResponse({"models": [entry] if view.health.ok else []})

    return endpoint


def show(service: Service) -> Endpoint:
    """POST /api/show: what is known of one model."""
    coordinator = service.coordinator

    def answer(body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        asked = checked(OllamaShowRequest, body)
        name = asked.model or asked.name
        if not name:
            raise InvalidRequest("model: field required", param="model")
        model = coordinator.model
        check_model(served_name(name), model)
        thinks = bool(coordinator.tokenizer.notation.think_start)
        return {
            "license": "",
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(),
            "model_info": {
                "general.architecture": ARCHITECTURE,
                "general.basename": model.id,
                f"{ARCHITECTURE}.context_length": model.context,
            },
            "capabilities": ["completion", "tools", *(["thinking"] if thinks else [])],
            "modified_at": timestamp(model.created),
        }

    return posted(answer, service.tokenizing, coordinator.limits.body_bytes)


def _named(model: ServedModel) -> dict[str, Any]:
    # Clients show the first 12 digits. It is the name's: weights are not read for this.
    digest = hashlib.sha256(model.id.encode()).hexdigest()
    return {"name": model.id, "model": model.id, "digest": digest, "details": _details()}


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": ARCHITECTURE,
        "families": [ARCHITECTURE],
        "parameter_size": "",
        "quantization_level": "",
    }


class Loading:
    """Before a generating endpoint: answers requests that have nothing to answer, with which
    Ollama's clients load and unload a model."""

    def __init__(self, service: Service, generate: ASGIApp, *, chat: bool) -> None:
        self._coordinator = service.coordinator
        self._generate = generate
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, self._coordinator.limits.body_bytes)
            if body is None:
                return
            answer = self._loaded(body) if len(body) <= SMALL else None
        except TandemError as error:
            refusal = error_answer(error, ollama_shape, request_id(scope))
            await refusal(scope, receive, send)
            return
        if answer is not None:
            await JSONResponse(answer)(scope, receive, send)
        else:
            await self._generate(scope, _again(body, receive), send)

    def _loaded(self, body: bytes) -> dict[str, Any] | None:
        """Raises NotReady, or ModelNotFound; what else may be wrong is found where answers are
        made."""
        try:
            found = loads(parse_object(body), self._chat)
        except InvalidRequest:
            return None
        if found is None:
            return None
        asked, reason = found
        model = self._coordinator.model
        check_model(asked, model)
        if not (health := self._coordinator.health()).ok:
            raise NotReady(f"not ready: {health.reason}", retry_after=2)
        part = chat_part("") if self._chat else generate_part("")
        base = answer_base(model.id, time.time())
        return {**base, **part, "done": True, "done_reason": reason}


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for someone else to read."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


def ollama_routes(service: Service) -> list[Route]:
    """All that Ollama's clients ask for."""
    coordinator = service.coordinator
    chat = Loading(service, Generate(service, OllamaChat()), chat=True)
    generate = Loading(service, Generate(service, OllamaGenerate()), chat=False)
    return [
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/show", show(service), methods=["POST"]),
        Route("/api/tags", tags(coordinator), methods=["GET"]),
        Route("/api/ps", loaded(coordinator), methods=["GET"]),
        Route("/api/version", version, methods=["GET"]),
        *(Route(path, refused(what), methods=[method]) for path, (method, what) in REFUSED.items()),
    ]
