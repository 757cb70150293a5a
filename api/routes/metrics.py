"""GET /metrics: what Prometheus reads."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from api.routes.models import Endpoint
from api.serving import Fleet


def metrics(fleet: Fleet) -> Endpoint:
    """Prometheus's text format; docs/metrics.md has the names."""

    async def endpoint(request: Request) -> Response:
        headers = {"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"}
        return Response(fleet.metrics(), headers=headers)

    return endpoint
