"""The one map from the error tree to OpenAI's error shape.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

In a stream that has begun the same object is an event of its own, with `retry_after` (seconds)
where trying again makes sense; in an answer that is the header Retry-After.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.request_id import request_id
from cluster.core import errors

_INVALID = "invalid_request_error"
_SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a client is told of one kind of error."""

    status: int
    type: str
    code: str | None
    retry_after: float | None = None
    """Seconds, for errors that carry none of their own."""


FAULTS: dict[type[errors.TandemError], Fault] = {
    errors.InvalidRequest: Fault(400, _INVALID, None),
    errors.PromptTooLong: Fault(400, _INVALID, "context_length_exceeded"),
    errors.GrammarRefused: Fault(400, _INVALID, "invalid_grammar"),
    errors.Unsupported: Fault(400, _INVALID, "unsupported_parameter"),
    errors.ModelNotFound: Fault(404, _INVALID, "model_not_found"),
    errors.BodyTooLarge: Fault(413, _INVALID, "request_too_large"),
    errors.QueueFull: Fault(429, "rate_limit_error", "queue_full"),
    errors.NotReady: Fault(503, _SERVER, "not_ready"),
    errors.ShuttingDown: Fault(503, _SERVER, "shutting_down"),
    errors.Busy: Fault(503, _SERVER, "busy"),
    errors.EpochEnded: Fault(503, _SERVER, "epoch_ended", retry_after=1.0),
    errors.DeadlinePassed: Fault(504, _SERVER, "deadline_passed"),
    errors.Interrupted: Fault(503, _SERVER, "interrupted"),
    errors.TandemError: Fault(500, _SERVER, None),
}
"""A class that is not listed is treated as the nearest of its bases that is."""


def fault_of(error: errors.TandemError) -> Fault:
    """The entry of FAULTS for an error."""
    return next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: errors.TandemError) -> tuple[Fault, dict[str, Any], int | None]:
    """The entry of FAULTS, the error object, and in how many seconds to try again."""
    fault = fault_of(error)
    param = error.param if isinstance(error, errors.RequestError) else None
    retry = error.retry_after if isinstance(error, errors.Busy) else fault.retry_after
    body = error_body(str(error), fault.type, param=param, code=fault.code)
    return fault, body, None if retry is None else max(1, math.ceil(retry))


def error_answer(error: errors.TandemError) -> Response:
    """The answer to a request that failed before any of its answer was sent."""
    fault, body, retry = describe(error)
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse(body, status_code=fault.status, headers=headers)


def error_event(error: errors.TandemError) -> dict[str, Any]:
    """The event that ends a stream which had begun."""
    _, body, retry = describe(error)
    if retry is not None:
        body["error"]["retry_after"] = retry
    return body


async def on_tandem_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for errors raised on purpose."""
    assert isinstance(error, errors.TandemError)
    return error_answer(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    message, code = error.detail, None
    if error.status_code == 404:
        message, code = f"there is nothing at {path}", "not_found"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message, code = f"{method} is not possible at {path}; {allowed} is", "method_not_allowed"
    body = error_body(message, _INVALID, code=code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Starlette's handler for everything that nobody foresaw; the server logs the traceback."""
    ours = request_id(request.scope)
    body = error_body(f"a bug in Tandem; its log says more about request {ours}", _SERVER)
    return JSONResponse(body, status_code=500, headers={"x-request-id": ours})
