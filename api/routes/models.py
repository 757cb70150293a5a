"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
        return JSONResponse({"object": "list", "data": [model_object(coordinator.model)]})

    return endpoint


def one_model(coordinator: Coordinator) -> Endpoint:
    """The one, if it is asked for by its name."""

    async def endpoint(request: Request) -> Response:
        check_model(request.path_params["id"], coordinator.model)
        return JSONResponse(model_object(coordinator.model))

    return endpoint


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
