"""GET /v1/models and /v1/models/{id}, in OpenAI's shape; in Anthropic's for a client that sends
its header."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.serving import Coordinator
from cluster.core.errors import ModelNotFound
from cluster.core.view import ServedModel

Endpoint = Callable[[Request], Awaitable[Response]]


def check_model(asked: str | None, served: ServedModel) -> None:
    """Raise ModelNotFound when a request names another model than the one served."""
    if asked is not None and asked != served.id:
        raise ModelNotFound(
            f"the model {asked[:200]!r} is not served here; {served.id!r} is", param="model"
        )


def list_models(coordinator: Coordinator) -> Endpoint:
    """All models: the one."""

    async def endpoint(request: Request) -> Response:
        model = coordinator.model
        if not _from_anthropic(request):
            return JSONResponse({"object": "list", "data": [model_object(model)]})
        ends = {"first_id": model.id, "last_id": model.id}
        return JSONResponse({"data": [anthropic_model(model)], "has_more": False, **ends})

    return endpoint


def one_model(coordinator: Coordinator) -> Endpoint:
    """The one, if it is asked for by its name."""

    async def endpoint(request: Request) -> Response:
        check_model(request.path_params["id"], coordinator.model)
        shape = anthropic_model if _from_anthropic(request) else model_object
        return JSONResponse(shape(coordinator.model))

    return endpoint


def _from_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def anthropic_model(model: ServedModel) -> dict[str, Any]:
    """Anthropic's model object."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": datetime.fromtimestamp(model.created, UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": model.context,
    }


def model_object(model: ServedModel) -> dict[str, Any]:
    """OpenAI's model object; `context_length` and `demo` are ours."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "tandem",
        "context_length": model.context,
        "demo": model.demo,
    }
