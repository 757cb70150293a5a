"""A bound on the requests that are under way, whatever they are."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import OPEN_PATHS
from api.errors import error_answer, shape_at
from api.request_id import request_id
from cluster.core.errors import Busy

MOST_REQUESTS = 1024
"""Far more than run and wait in the queue, so that followers of streams find room too."""


class RequestBound:
    """ASGI middleware: one request too many is answered with 503. /health always has room."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            full = Busy(
                f"this server has {self._under_way} requests under way and takes no more: try "
                "again soon",
                retry_after=1.0,
            )
            answer = error_answer(full, shape_at(scope["path"]), request_id(scope))
            await answer(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
