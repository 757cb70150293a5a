"""POST /v1/cancel/{id}: end a request by the id that its answer has."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.caller import caller_of
from api.routes.models import Endpoint
from api.service import Service
from cluster.core.errors import NotFound


def cancel(service: Service) -> Endpoint:
    """What was cancelled ends as an error for whoever reads its answer: it is incomplete."""

    async def endpoint(request: Request) -> Response:
        shown = request.path_params["id"]
        found = service.live.find(shown, caller_of(request.scope))
        if found is None or not service.fleet.cancel(found):
            raise NotFound(f"no request {shown[:100]!r} is under way", param="id")
        return JSONResponse({"id": shown, "cancelled": True})

    return endpoint
