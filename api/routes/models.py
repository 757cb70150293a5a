"""GET /v1/models and /v1/models/{id}, in OpenAI's shape; in Anthropic's for a client that sends
its header."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.serving import Fleet
from cluster.core.view import ModelView

Endpoint = Callable[[Request], Awaitable[Response]]


def list_models(fleet: Fleet) -> Endpoint:
    """All models, loaded or not."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(listed(fleet.models(), anthropic=from_anthropic(request)))

    return endpoint


def one_model(fleet: Fleet) -> Endpoint:
    """One, by its name."""

    async def endpoint(request: Request) -> Response:
        wanted = fleet.find(request.path_params["id"]).model.id
        model = next(each for each in fleet.models() if each.id == wanted)
        shape = anthropic_model if from_anthropic(request) else model_object
        return JSONResponse(shape(model))

    return endpoint


def listed(models: Sequence[ModelView], *, anthropic: bool) -> dict[str, Any]:
    """A list of models, as OpenAI has it, or Anthropic."""
    if not anthropic:
        return {"object": "list", "data": [model_object(model) for model in models]}
    ends = {"first_id": models[0].id, "last_id": models[-1].id}
    return {"data": [anthropic_model(model) for model in models], "has_more": False, **ends}


def from_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def anthropic_model(model: ModelView) -> dict[str, Any]:
    """Anthropic's model object."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": datetime.fromtimestamp(model.created, UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": model.context,
    }


def model_object(model: ModelView) -> dict[str, Any]:
    """OpenAI's model object; `context_length`, `demo` and `state` are ours."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "tandem",
        "context_length": model.context,
        "demo": model.demo,
        "state": model.state,
    }
