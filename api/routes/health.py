"""GET /health and GET /cluster: what supervisors, balancers and `tandem status` read."""

from __future__ import annotations

from dataclasses import asdict, replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.caller import caller_of
from api.routes.group import group_asked
from api.routes.models import Endpoint
from api.service import Service
from api.serving import Fleet
from api.zipped import zipped_json
from cluster.core.ids import RequestId


def health(fleet: Fleet) -> Endpoint:
    """200 while steps advance or none are wanted, else 503; with the reason."""

    async def endpoint(request: Request) -> Response:
        now = fleet.health()
        body = {"status": "ok" if now.ok else "unhealthy", "reason": now.reason}
        headers = {"cache-control": "no-store"} if now.ok else {"Retry-After": "1"}
        return JSONResponse(body, status_code=200 if now.ok else 503, headers=headers)

    return endpoint


def cluster(service: Service) -> Endpoint:
    """The ClusterView, field by field; of its requests, those that the caller may see. `?model=`
    and `?replica=` name the group. `?without=` leaves out what grows with the cluster ("requests",
    "links"), for those who ask often."""

    async def endpoint(request: Request) -> Response:
        view = service.fleet.view(*group_asked(request.query_params))
        caller = caller_of(request.scope)
        without = request.query_params.get("without", "").split(",")
        if "requests" in without:
            view = replace(view, requests=())
        elif not caller.operator:
            seen = (r for r in view.requests if service.live.asked(RequestId(r.id), caller))
            view = replace(view, requests=tuple(seen))
        if "links" in without:
            view = replace(view, links=())
        return await zipped_json(request, lambda: asdict(view), {"cache-control": "no-store"})

    return endpoint
