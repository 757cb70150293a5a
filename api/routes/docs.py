"""GET /openapi.json and /docs."""

from __future__ import annotations

import json
from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from api.docs_page import POLICY, page
from api.endpoints import OPERATIONS
from api.openapi import document

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


async def openapi(request: Request) -> Response:
    """The document, for programs."""
    return Response(_written()[0], media_type="application/json")


async def docs(request: Request) -> Response:
    """The document, for people."""
    return Response(_written()[1], media_type="text/html", headers=_HEADERS)


@cache
def _written() -> tuple[bytes, bytes]:
    made = document(OPERATIONS)
    return json.dumps(made).encode(), page(made).encode()
