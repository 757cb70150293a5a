"""Stored responses: GET, DELETE and what is below /v1/responses/{id}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from api.caller import caller_of
from api.convert.openai_chat import as_line, error_event
from api.dialect import SSE, event
from api.hangup import until_hangup
from api.routes.models import Endpoint
from api.service import Service
from api.sse import Connection, signs_of_life
from api.stored_response import Stored
from cluster.core.errors import InvalidRequest, OffsetLost

CANCEL_SECONDS = 10.0
"""Longest wait for a cancelled response to end; it takes a few turns of the event loop."""

MOST_ITEMS = 100
DEFAULT_ITEMS = 20


class Retrieve:
    """GET /v1/responses/{id}: the response as it is now, or with ?stream=true its events, those
    behind ?starting_after=N only, until it is over."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        stored = _stored(self._service, request)
        after = _number(request, "starting_after", -1, least=-1)
        match request.query_params.get("stream", "false"):
            case "true":
                stored.check_place(after)
                async with until_hangup(receive):
                    await follow(self._service, stored, after, send, {})
            case "false":
                await JSONResponse(stored.response)(scope, receive, send)
            case _:
                raise InvalidRequest("stream: should be true or false", param="stream")


async def follow(
    service: Service, stored: Stored, after: int, send: Send, headers: Mapping[str, str]
) -> None:
    """Stream a response's events behind number `after`, until it is over."""
    sink = Connection(send)

    def say() -> str | None:
        return stored.sign() if service.fleet.find(None).health().advancing else None

    last = ""
    await sink.start(SSE, headers)
    async with signs_of_life(sink, service.sign_of_life, say):
        try:
            async for frames in stored.follow(after):
                await sink.write(frames)
        except OffsetLost as error:  # slower than the response, by all that is held
            told = {**error_event(error)["error"], "type": "error"}
            last = event(as_line(told), name="error")
    await sink.end(last)


def delete(service: Service) -> Endpoint:
    """DELETE /v1/responses/{id}; one that still runs without its client is stopped."""

    async def endpoint(request: Request) -> Response:
        response_id = request.path_params["id"]
        service.responses.delete(caller_of(request.scope).owner, response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    return endpoint


def cancel(service: Service) -> Endpoint:
    """POST /v1/responses/{id}/cancel; for one that is over it changes nothing."""

    async def endpoint(request: Request) -> Response:
        stored = _stored(service, request)
        if not stored.background:
            raise InvalidRequest(
                "only a response with background true can be cancelled; the others are by hanging "
                "up"
            )
        if stored.cancel is not None:
            stored.cancel()
        with anyio.fail_after(CANCEL_SECONDS):
            await stored.ended()
        return JSONResponse(stored.response)

    return endpoint


def input_items(service: Service) -> Endpoint:
    """GET /v1/responses/{id}/input_items: its own, without those of earlier turns; the latest
    first unless ?order=asc, ?limit= of them behind the one that ?after= names."""

    async def endpoint(request: Request) -> Response:
        items = list(_stored(service, request).items)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("order: should be asc or desc", param="order")
        if order == "desc":
            items.reverse()
        if (after := request.query_params.get("after")) is not None:
            ids = [item["id"] for item in items]
            if after not in ids:
                raise InvalidRequest(f"after: {after[:200]!r} is none of the items", param="after")
            del items[: ids.index(after) + 1]
        limit = _number(request, "limit", DEFAULT_ITEMS, least=1, most=MOST_ITEMS)
        page = items[:limit]
        answer: dict[str, Any] = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
        return JSONResponse(answer)

    return endpoint


def _stored(service: Service, request: Request) -> Stored:
    return service.responses.get(caller_of(request.scope).owner, request.path_params["id"])


def _number(
    request: Request, name: str, default: int, *, least: int, most: int = (1 << 31) - 1
) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    digits = text.removeprefix("-")
    # Not more digits than numbers are read of.
    number = (
        int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 12 else least - 1
    )
    if not least <= number <= most:
        raise InvalidRequest(f"{name}: should be a number from {least} to {most}", param=name)
    return number
