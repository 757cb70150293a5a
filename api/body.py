"""Request bodies: read up to a limit, and parsed strictly."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import anyio
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from api.convert.fields import path_of
from cluster.core.errors import BodyTooLarge, BodyTooSlow, InvalidRequest
from cluster.text.json_scan import DEPTH, too_deep

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may be half of a character beyond U+FFFF; raw UTF-8 can't have one."""

SILENT_SECONDS = 30.0
"""Longest wait for the next bytes of a body."""

BODY_SECONDS = 600.0
"""Longest wait for all of it."""


async def read_body(
    scope: Scope,
    receive: Receive,
    limit: int,
    *,
    silent_seconds: float = SILENT_SECONDS,
    body_seconds: float = BODY_SECONDS,
) -> bytes | None:
    """The whole body, or None when the client left before its end.

    Raises BodyTooLarge as soon as it is known to have more than `limit` bytes; no more than
    that is ever held, whatever its headers say. Raises BodyTooSlow when nothing comes for
    `silent_seconds`, or the end does not within `body_seconds`.
    """
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes, and at most {limit} are accepted")
    parts: list[bytes] = []
    size = 0
    end = anyio.current_time() + body_seconds
    while True:
        due = min(anyio.current_time() + silent_seconds, end)
        with anyio.CancelScope(deadline=due) as wait:
            message = await receive()
        if wait.cancelled_caught:
            raise BodyTooSlow(
                f"after {size} bytes the rest of the body did not come within "
                f"{min(silent_seconds, body_seconds):g} s"
            )
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"the body has more than the {limit} bytes that are accepted")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises InvalidRequest for anything else: broken JSON or UTF-8, NaN and Infinity (which JSON
    does not have), numbers too long to convert, nesting too deep to walk, half a surrogate pair.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_such_number)
        if too_deep(value):
            raise InvalidRequest(f"the body is nested more than {DEPTH} deep")
        if _SURROGATE.search(text):
            _refuse_half_characters(value, ())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the body has a number that can't be read: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _no_such_number(name: str) -> NoReturn:
    raise InvalidRequest(f"the body is not JSON: {name} is no number there")


def _refuse_half_characters(value: Any, place: tuple[int | str, ...]) -> None:
    """Raise InvalidRequest where a text has one half of a surrogate pair: it is no text."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            param = path_of(place) or None
            raise InvalidRequest(f"{param}: has half of a surrogate pair", param=param) from error
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_half_characters(item, (*place, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_half_characters(key, place)
            _refuse_half_characters(item, (*place, key))
