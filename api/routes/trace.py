"""GET /requests/{id}/trace: what happened to a request and when, in a file for Perfetto."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from api.caller import caller_of
from api.convert.chrome_trace import chrome_trace
from api.routes.models import Endpoint
from api.service import Service
from api.traces import LAST
from api.zipped import zipped_json
from cluster.core.errors import NotFound

ADVICE = (
    "one is traced if the server runs with `tandem serve --trace N`, or if it comes with a "
    "sampled `traceparent`, and is kept until N later ones are over"
)


def trace_file(service: Service) -> Endpoint:
    """Of the caller's own requests, or for an operator of all. One that runs is told as far as it
    is."""

    async def endpoint(request: Request) -> Response:
        shown = request.path_params["id"]
        trace = service.traces.find(shown, caller_of(request.scope))
        if trace is None:
            which = "no request" if shown == LAST else f"no request {shown[:100]!r}"
            raise NotFound(f"{which} was traced, or it is forgotten: {ADVICE}", param="id")
        name = next(iter(trace.timeline.requests), trace.timeline.name)
        disposition = f'attachment; filename="{name}.trace.json"'
        headers = {"cache-control": "no-store", "content-disposition": disposition}
        return await zipped_json(
            request, lambda: chrome_trace(trace.timeline, trace.trace_id), headers
        )

    return endpoint
