"""GET / and /assets/{name}: the dashboard, as `web/` builds it.

At `/` browsers get the page, and all others the greeting by which Ollama's clients know it.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from api.routes.ollama import greeting
from api.zipped import takes_gzip
from cluster.core.errors import NotFound

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of the page: its own files and this server, and no markup from text."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"
"""A file's name changes with its content."""


@dataclass(frozen=True)
class Asset:
    """One built file."""

    content: bytes
    media_type: str
    zipped: bytes = field(init=False)
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "zipped", gzip.compress(self.content, mtime=0))
        object.__setattr__(self, "etag", f'W/"{hashlib.sha256(self.content).hexdigest()[:32]}"')


async def home(request: Request) -> Response:
    """GET /."""
    if "text/html" in request.headers.get("accept", ""):
        # Not kept without asking: the names of the files in it change with each version.
        answer = _answer(request, built()["index.html"], "no-cache")
    else:
        answer = await greeting(request)
    answer.headers["vary"] = "Accept, Accept-Encoding"
    return answer


async def asset(request: Request) -> Response:
    """GET /assets/{name}."""
    found = built().get(f"assets/{request.path_params['name']}")
    if found is None:
        raise NotFound(f"there is nothing at {request.url.path}")
    return _answer(request, found, _FOR_EVER)


def _answer(request: Request, found: Asset, keep: str) -> Response:
    headers = {**_SAFE, "cache-control": keep, "etag": found.etag, "vary": "Accept-Encoding"}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content
    if takes_gzip(request):
        content, headers["content-encoding"] = found.zipped, "gzip"
    return Response(content, headers=headers, media_type=found.media_type)


@cache
def built() -> dict[str, Asset]:
    """All files of the page, by their path; read once."""
    root = files("api") / "static"
    found = {"index.html": root / "index.html"}
    found |= {f"assets/{each.name}": each for each in (root / "assets").iterdir()}
    return {
        path: Asset(each.read_bytes(), _TYPES[path[path.rindex(".") :]])
        for path, each in found.items()
    }
