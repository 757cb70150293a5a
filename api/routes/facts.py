"""GET /cluster/facts: what `tandem doctor` wants to know of every machine."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.access import require_own_machine
from api.routes.models import Endpoint
from api.serving import Coordinator


def facts(coordinator: Coordinator) -> Endpoint:
    """The Survey, field by field, after some seconds. Only on the machine that serves: it tells
    of firewalls and folders, and has every machine run commands."""

    async def endpoint(request: Request) -> Response:
        require_own_machine(
            request, "what machines have found is told on the one that serves: tandem doctor there"
        )
        survey = await coordinator.facts()
        return JSONResponse(asdict(survey), headers={"cache-control": "no-store"})

    return endpoint
