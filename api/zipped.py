"""JSON that may be large: made in a thread, since others would notice, and sent compressed to
clients that take it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

LEAST = 1400
"""Bytes that are worth it: what is shorter is one packet anyway."""
LEVEL = 1
"""Of zlib's 9: the others save little more of numbers, and take many times as long."""


async def zipped_json(
    request: Request, make: Callable[[], Any], headers: Mapping[str, str]
) -> Response:
    """What `make` returns, which is called in a thread."""

    def work() -> Response:
        answer = JSONResponse(make(), headers={**headers, "vary": "Accept-Encoding"})
        if len(answer.body) < LEAST or not takes_gzip(request):
            return answer
        body = gzip.compress(answer.body, LEVEL, mtime=0)
        length = {"content-length": str(len(body)), "content-encoding": "gzip"}
        return Response(body, headers={**answer.headers, **length})

    return await to_thread.run_sync(work)


def takes_gzip(request: Request) -> bool:
    """Whether the client has said so (RFC 9110, 12.5.3)."""
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False
