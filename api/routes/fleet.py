"""GET /models, POST /models/load and /models/unload, GET /models/placement: which models there are,
which of them are loaded, and where. Orders take an operator, since they concern what others ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import anyio
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.access import require_operator
from api.body import parse_object, read_body
from api.convert.fields import checked
from api.routes.models import Endpoint, from_anthropic, listed
from api.routes.posted import LEFT
from api.serving import Fleet
from cluster.core.errors import DeadlinePassed, InvalidRequest, NotReady
from cluster.core.view import ModelView

MOST_BYTES = 4096
LOOK_SECONDS = 0.1
"""Between two looks at a model that is being loaded."""
NO_STORE = {"cache-control": "no-store"}


class LoadRequest(BaseModel):
    """Which model."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    model: str
    """By its name, as /v1/models has it."""
    pin: bool | None = None
    """Whether it is to stay, for whatever reason; without it, that is left as it is."""


class UnloadRequest(BaseModel):
    """Which model."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    model: str
    """By its name, as /v1/models has it."""


def overview(fleet: Fleet) -> Endpoint:
    """All models and their groups, in our shape; in the same object as OpenAI's list has it."""

    async def endpoint(request: Request) -> Response:
        models = fleet.models()
        body = listed(models, anthropic=from_anthropic(request))
        ours = {"models": models_object(models), "keep_alive_seconds": fleet.keep_alive}
        return JSONResponse({**body, **ours}, headers=NO_STORE)

    return endpoint


def models_object(models: Sequence[ModelView]) -> list[dict[str, Any]]:
    """ModelViews, field by field."""
    return [asdict(model) for model in models]


def load(fleet: Fleet) -> Endpoint:
    """Answers at once; how far it is, is told by GET /models."""

    async def endpoint(request: Request) -> Response:
        require_operator(request.scope, "loading a model")
        body = await read_body(request.scope, request.receive, MOST_BYTES)
        if body is None:
            return Response(status_code=LEFT)
        order = checked(LoadRequest, parse_object(body))
        fleet.load(order.model, pin=order.pin)
        return JSONResponse(asdict(view_of(fleet, order.model)), status_code=202)

    return endpoint


def unload(fleet: Fleet) -> Endpoint:
    """It is unloaded once it has no request, and its pin is taken off."""

    async def endpoint(request: Request) -> Response:
        require_operator(request.scope, "unloading a model")
        body = await read_body(request.scope, request.receive, MOST_BYTES)
        if body is None:
            return Response(status_code=LEFT)
        order = checked(UnloadRequest, parse_object(body))
        fleet.unload(order.model)
        return JSONResponse(asdict(view_of(fleet, order.model)))

    return endpoint


def placement(fleet: Fleet) -> Endpoint:
    """Where a model would go now."""

    async def endpoint(request: Request) -> Response:
        model = request.query_params.get("model")
        if not model:
            raise InvalidRequest("model: which one? Give ?model=NAME", param="model")
        return JSONResponse(asdict(fleet.placement(model)), headers=NO_STORE)

    return endpoint


def view_of(fleet: Fleet, model: str) -> ModelView:
    """One model; raises ModelNotFound."""
    name = fleet.find(model).model.id
    return next(each for each in fleet.models() if each.id == name)


async def until_loaded(fleet: Fleet, model: str) -> None:
    """Return once a model that was ordered to be loaded is there. Raises NotReady when it can't
    be, DeadlinePassed when it takes longer than a request may wait, and ModelNotFound."""
    seconds = fleet.default.limits.queue_seconds
    with anyio.move_on_after(seconds):
        while True:
            view = view_of(fleet, model)
            if view.state == "loaded":
                return
            if view.state == "failed":
                raise NotReady(f"{view.id} could not be loaded: {view.error}", retry_after=5)
            await anyio.sleep(LOOK_SECONDS)
    raise DeadlinePassed(f"{model} is not loaded after {seconds:.0f} s")
