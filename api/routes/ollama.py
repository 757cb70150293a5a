"""What Ollama's clients ask beside answers: which models there are, and that one be loaded."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import require_operator
from api.body import parse_object, read_body
from api.caller import caller_of
from api.convert.fields import checked
from api.convert.ollama import OllamaChat, OllamaGenerate, loads, served_name
from api.convert.ollama_answer import answer_base, chat_part, generate_part, timestamp
from api.errors import error_answer, ollama_shape
from api.hangup import until_hangup
from api.request_id import request_id
from api.routes.fleet import until_loaded
from api.routes.generate import Generate
from api.routes.models import Endpoint
from api.routes.posted import posted
from api.schema.ollama import OllamaShowRequest
from api.service import Service
from api.serving import Fleet
from cluster.core.errors import InvalidRequest, NotReady, TandemError, Unsupported
from cluster.core.versions import versions
from cluster.core.view import ModelView

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


def tags(fleet: Fleet) -> Endpoint:
    """GET /api/tags: all models, loaded or not."""

    async def endpoint(request: Request) -> Response:
        entries = [
            {**_named(m.id), "modified_at": timestamp(m.created), "size": m.weight_bytes}
            for m in fleet.models()
        ]
        return JSONResponse({"models": entries})

    return endpoint


def loaded(fleet: Fleet) -> Endpoint:
    """GET /api/ps: the models that are in memory."""

    async def endpoint(request: Request) -> Response:
        entries = [_process(model) for model in fleet.models() if model.state == "loaded"]
        return JSONResponse({"models": entries})

    return endpoint


def _process(model: ModelView) -> dict[str, Any]:
    size = sum(rank.memory_bytes for replica in model.replicas for rank in replica.ranks)
    left = model.expires_in_seconds
    if left is None:  # never, or not before the requests that it has are over
        left = model.keep_alive_seconds if model.requests and not model.pinned else None
    return {
        **_named(model.id),
        "size": size,
        "size_vram": size,
        "expires_at": NEVER if left is None else timestamp(time.time() + left),
        "context_length": model.context,
    }


def show(service: Service) -> Endpoint:
    """POST /api/show: what is known of one model."""

    def answer(body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        asked = checked(OllamaShowRequest, body)
        name = asked.model or asked.name
        if not name:
            raise InvalidRequest("model: field required", param="model")
        answers = service.fleet.find(served_name(name))
        model = answers.model
        thinks = bool(answers.tokenizer.notation.think_start)
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

    return posted(answer, service.tokenizing, service.body_bytes)


def _named(model: str) -> dict[str, Any]:
    # Clients show the first 12 digits. It is the name's: weights are not read for this.
    digest = hashlib.sha256(model.encode()).hexdigest()
    return {"name": model, "model": model, "digest": digest, "details": _details()}


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
    """Before a generating endpoint: does what requests want that have nothing to answer, with
    which Ollama's clients load and unload a model."""

    def __init__(self, service: Service, generate: ASGIApp, *, chat: bool) -> None:
        self._service = service
        self._fleet = service.fleet
        self._generate = generate
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, self._service.body_bytes)
            if body is None:
                return
            found = self._found(body) if len(body) <= SMALL else None
            if found is None:
                await self._generate(scope, _again(body, receive), send)
                return
        except TandemError as error:
            await self._refuse(error, scope, receive, send)
            return
        async with until_hangup(receive):
            try:
                answer = await self._done(*found, scope)
            except TandemError as error:
                await self._refuse(error, scope, receive, send)
            else:
                await JSONResponse(answer)(scope, receive, send)

    async def _refuse(self, error: TandemError, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = error_answer(error, ollama_shape, request_id(scope))
        await refusal(scope, receive, send)

    def _found(self, body: bytes) -> tuple[str | None, float | None] | None:
        """As `loads`; what may be wrong is found where answers are made."""
        try:
            return loads(parse_object(body), self._chat)
        except InvalidRequest:
            return None

    async def _done(self, asked: str | None, seconds: float | None, scope: Scope) -> dict[str, Any]:
        """Load or unload a model. To load it, as any request does, takes no operator. Raises
        NotReady, ModelNotFound, ModelDoesNotFit or OperatorOnly."""
        answers = self._fleet.find(asked)
        model = answers.model.id
        if seconds == 0:
            require_operator(scope, "unloading a model")
            self._fleet.unload(model, pinned=False)
        else:
            if not answers.loading and not (health := answers.health()).ok:
                raise NotReady(f"not ready: {health.reason}", retry_after=2)
            self._fleet.load(model)
            if seconds is not None and caller_of(scope).operator:
                self._fleet.keep(model, seconds)
            await until_loaded(self._fleet, model)
        part = chat_part("") if self._chat else generate_part("")
        reason = "unload" if seconds == 0 else "load"
        return {**answer_base(model, time.time()), **part, "done": True, "done_reason": reason}


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for someone else to read."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


def ollama_routes(service: Service) -> list[Route]:
    """All that Ollama's clients ask for."""
    fleet = service.fleet
    chat = Loading(service, Generate(service, OllamaChat()), chat=True)
    generate = Loading(service, Generate(service, OllamaGenerate()), chat=False)
    return [
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/show", show(service), methods=["POST"]),
        Route("/api/tags", tags(fleet), methods=["GET"]),
        Route("/api/ps", loaded(fleet), methods=["GET"]),
        Route("/api/version", version, methods=["GET"]),
        *(Route(path, refused(what), methods=[method]) for path, (method, what) in REFUSED.items()),
    ]
