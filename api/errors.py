"""The one map from the error tree to what clients are told, and each dialect's shape of it.

    OpenAI     {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
    Anthropic  {"type": "error", "error": {"type": ..., "message": ...}, "request_id": ...}
    Ollama     {"error": ...}

In a stream that has begun, a dialect's writer sends the same object as its error event, with
`retry_after` (seconds) where trying again makes sense; in an answer that is the header
Retry-After.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

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
    errors.NotFound: Fault(404, _INVALID, "not_found"),
    errors.ModelNotFound: Fault(404, _INVALID, "model_not_found"),
    errors.ModelDoesNotFit: Fault(400, _INVALID, "model_does_not_fit"),
    errors.OffsetLost: Fault(400, _INVALID, "offset_lost"),
    errors.AccessDenied: Fault(401, _INVALID, "invalid_api_key"),
    errors.OperatorOnly: Fault(403, _INVALID, "operator_only"),
    errors.HostRefused: Fault(403, _INVALID, "host_not_allowed"),
    errors.BodyTooLarge: Fault(413, _INVALID, "request_too_large"),
    errors.BodyTooSlow: Fault(408, _INVALID, "request_timeout"),
    errors.QueueFull: Fault(429, "rate_limit_error", "queue_full"),
    errors.TooManyRequests: Fault(429, "rate_limit_error", "rate_limit"),
    errors.NotReady: Fault(503, _SERVER, "not_ready"),
    errors.ShuttingDown: Fault(503, _SERVER, "shutting_down"),
    errors.Busy: Fault(503, _SERVER, "busy"),
    **dict.fromkeys(
        (
            errors.EpochEnded,
            errors.EngineCrashed,
            errors.NodeLost,
            errors.StepOverdue,
            errors.Regrouped,
        ),
        Fault(503, _SERVER, "epoch_ended", retry_after=1.0),
    ),
    errors.RequestCrashes: Fault(500, _SERVER, "request_crashes"),
    errors.DeadlinePassed: Fault(504, _SERVER, "deadline_passed"),
    errors.Replaced: Fault(503, _SERVER, "replaced"),
    errors.Interrupted: Fault(503, _SERVER, "interrupted"),
    errors.TandemError: Fault(500, _SERVER, None),
}
"""A class that is not listed is treated as the nearest of its bases that is."""


def fault_of(error: errors.TandemError) -> Fault:
    """The entry of FAULTS for an error."""
    return next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)


def retry_seconds(error: errors.TandemError) -> int | None:
    """In how many seconds to try again; None where that makes no sense."""
    retry = error.retry_after if isinstance(error, errors.Busy) else fault_of(error).retry_after
    return None if retry is None else max(1, math.ceil(retry))


class Shape(Protocol):
    """A dialect's error object; `fault` is what is known of the error's kind."""

    def __call__(
        self, fault: Fault, message: str, *, param: str | None, request_id: str
    ) -> dict[str, Any]: ...


def openai_shape(
    fault: Fault, message: str, *, param: str | None, request_id: str
) -> dict[str, Any]:
    """See Shape."""
    return {"error": {"message": message, "type": fault.type, "param": param, "code": fault.code}}


def anthropic_shape(
    fault: Fault, message: str, *, param: str | None, request_id: str
) -> dict[str, Any]:
    """See Shape (https://docs.anthropic.com/en/api/errors)."""
    kind = _ANTHROPIC.get(fault.status, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }


def ollama_shape(
    fault: Fault, message: str, *, param: str | None, request_id: str
) -> dict[str, Any]:
    """See Shape."""
    return {"error": message}


_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def shape_at(path: str) -> Shape:
    """The shape for errors at a path that no dialect has taken up yet."""
    if path.startswith(("/v1/messages", "/messages")):
        return anthropic_shape
    return ollama_shape if path.startswith("/api/") else openai_shape


def _shape_for(request: Request) -> Shape:
    """Anthropic's clients say who they are, at whatever path."""
    anthropic = "anthropic-version" in request.headers
    return anthropic_shape if anthropic else shape_at(request.url.path)


def error_body(
    error: errors.TandemError, shape: Shape = openai_shape, request_id: str = ""
) -> dict[str, Any]:
    """An error as its dialect has it."""
    param = error.param if isinstance(error, errors.RequestError) else None
    return shape(fault_of(error), str(error), param=param, request_id=request_id)


def error_answer(
    error: errors.TandemError, shape: Shape = openai_shape, request_id: str = ""
) -> Response:
    """The answer to a request that failed before any of its answer was sent."""
    headers: dict[str, str] = {}
    if (retry := retry_seconds(error)) is not None:
        headers["Retry-After"] = str(retry)
    if isinstance(error, errors.AccessDenied):
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(error, shape, request_id)
    return JSONResponse(body, status_code=fault_of(error).status, headers=headers)


async def on_tandem_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for errors raised on purpose."""
    assert isinstance(error, errors.TandemError)
    return error_answer(error, _shape_for(request), request_id(request.scope))


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
    fault = Fault(error.status_code, _INVALID, code)
    body = _shape_for(request)(fault, message, param=None, request_id=request_id(request.scope))
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Starlette's handler for everything that nobody foresaw; the server logs the traceback."""
    ours = request_id(request.scope)
    message = f"a bug in Tandem; its log says more about request {ours}"
    fault = FAULTS[errors.TandemError]
    body = _shape_for(request)(fault, message, param=None, request_id=ours)
    return JSONResponse(body, status_code=500, headers={"x-request-id": ours, "request-id": ours})
