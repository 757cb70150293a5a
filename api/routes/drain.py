"""POST /cluster/drain: a machine is to be free, so that it can be unplugged."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.access import require_operator, require_own_machine
from api.body import parse_object, read_body
from api.convert.fields import checked
from api.routes.models import Endpoint
from api.routes.posted import LEFT
from api.serving import Fleet

MOST_BYTES = 4096


class DrainRequest(BaseModel):
    """Which machine."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    node: str
    """Its id or its host name, as /cluster has them."""
    undo: bool = False
    """It may be used again."""


def drain(fleet: Fleet) -> Endpoint:
    """Only on the machine that serves, and by an operator."""

    async def endpoint(request: Request) -> Response:
        require_own_machine(
            request, "machines are drained on the one that serves: tandem node drain"
        )
        require_operator(request.scope, "draining a machine")
        body = await read_body(request.scope, request.receive, MOST_BYTES)
        if body is None:
            return Response(status_code=LEFT)
        order = checked(DrainRequest, parse_object(body))
        return JSONResponse(asdict(fleet.drain(order.node, draining=not order.undo)))

    return endpoint
