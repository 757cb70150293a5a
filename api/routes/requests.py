"""GET /requests: what is under way, of all kinds, page by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.caller import Caller, caller_of
from api.live import Live
from api.routes.models import Endpoint
from api.service import Service
from cluster.core.errors import InvalidRequest
from cluster.core.ids import RequestId
from cluster.core.request import Phase
from cluster.core.view import RequestView

MOST = 500
"""Requests of one answer."""
USUAL = 100


def requests(service: Service) -> Endpoint:
    """`?phase=`, `?offset=` and `?limit=` choose which are shown; the totals are of all."""

    async def endpoint(request: Request) -> Response:
        asked = request.query_params
        phase = _phase(asked.get("phase"))
        offset, limit = number_of(asked, "offset", 0), number_of(asked, "limit", USUAL, MOST)
        live = service.fleet.requests()
        body = page_of(live, service.live, caller_of(request.scope), phase, offset, limit)
        return JSONResponse(body, headers={"cache-control": "no-store"})

    return endpoint


def page_of(
    live: Sequence[RequestView],
    known: Live,
    caller: Caller,
    phase: Phase | None,
    offset: int,
    limit: int,
) -> dict[str, Any]:
    """The answer. `total` is of those in `phase` that the caller may see; `phases` counts the
    requests of everyone, which tells how busy the server is and nothing of who asks what."""
    seen = [
        (view, asked)
        for view in live
        if (phase is None or view.progress.phase is phase)
        and (asked := known.asked(RequestId(view.id), caller)) is not None
    ]
    phases = Counter(view.progress.phase for view in live)
    return {
        "total": len(seen),
        "offset": offset,
        "all_visible": caller.operator,
        "phases": {each.value: phases[each] for each in Phase},
        "requests": [
            {
                "id": view.id,
                "dialect": asked.dialect,
                "key": asked.key,
                "phase": view.progress.phase.value,
                "prompt_tokens": view.progress.prompt_tokens,
                "prefilled": view.progress.prefilled,
                "generated": view.progress.generated,
                "cached_tokens": view.cached_tokens,
                "tokens_per_second": round(view.tokens_per_second, 2),
                "age_seconds": round(view.age_seconds, 2),
            }
            for view, asked in seen[offset : offset + limit]
        ],
    }


def number_of(asked: QueryParams, name: str, usual: int, most: int | None = None) -> int:
    """A number from 0 to `most` in a query. Raises InvalidRequest."""
    text = asked.get(name) or str(usual)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if number < 0 or (most is not None and number > most):
        span = "" if most is None else f" to {most}"
        raise InvalidRequest(
            f"{name}: must be a whole number from 0{span}, and is {text[:40]!r}", param=name
        )
    return number


def _phase(text: str | None) -> Phase | None:
    if not text:
        return None
    if text not in set(Phase):
        known = ", ".join(Phase)
        raise InvalidRequest(f"phase: must be one of {known}, and is {text[:40]!r}", param="phase")
    return Phase(text)
