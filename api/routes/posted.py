"""Endpoints that take a JSON object and answer at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from api.body import parse_object, read_body
from api.routes.models import Endpoint

LEFT = 499
"""Nginx's status for a client that has left; nobody reads it."""


def posted(
    answer: Callable[[dict[str, Any], Scope], dict[str, Any]],
    limiter: anyio.CapacityLimiter,
    limit: int,
) -> Endpoint:
    """`answer` takes the body's object and the request's scope. It is run in a thread, at most as
    many at a time as `limiter` lets; bodies have at most `limit` bytes. It may raise TandemError.
    """

    def work(body: bytes, scope: Scope) -> Response:
        return JSONResponse(answer(parse_object(body), scope))

    async def endpoint(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, limit)
        if body is None:
            return Response(status_code=LEFT)
        return await to_thread.run_sync(work, body, request.scope, limiter=limiter)

    return endpoint
