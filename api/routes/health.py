"""GET /health and GET /cluster: what supervisors, balancers and `tandem status` read."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.routes.models import Endpoint
from api.serving import Fleet


def health(fleet: Fleet) -> Endpoint:
    """200 while steps advance or none are wanted, else 503; with the reason."""

    async def endpoint(request: Request) -> Response:
        now = fleet.health()
        body = {"status": "ok" if now.ok else "unhealthy", "reason": now.reason}
        headers = {"cache-control": "no-store"} if now.ok else {"Retry-After": "1"}
        return JSONResponse(body, status_code=200 if now.ok else 503, headers=headers)

    return endpoint


def cluster(fleet: Fleet) -> Endpoint:
    """The ClusterView, field by field."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(asdict(fleet.view()), headers={"cache-control": "no-store"})

    return endpoint
