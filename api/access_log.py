"""A line in the log for every request, and its id in all lines that are written on its behalf."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.caller import caller_of
from api.request_id import request_id

log = structlog.stdlib.get_logger("tandem.access")

PROMPT_BYTES = 16384
"""What is logged of a body, when prompts are."""

PATH_CHARACTERS = 200


class AccessLog:
    """ASGI middleware, to be put inside RequestIds. Bodies are logged with `prompts` only."""

    def __init__(self, app: ASGIApp, *, prompts: bool = False) -> None:
        self._app = app
        self._prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status: int | None = None

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id(scope)):
            try:
                heard = _Overheard(receive) if self._prompts else receive
                await self._app(scope, heard, send_and_note)
            finally:
                log.info(
                    "request",
                    caller=caller_of(scope).name or None,
                    method=scope["method"],
                    path=path_of(scope),
                    status=status,
                    seconds=round(time.monotonic() - begun, 3),
                )


def path_of(scope: Scope) -> str:
    """The path as it was sent: with escapes, so that it can't end a line, and no query."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("ascii", "backslashreplace")[:PATH_CHARACTERS]


class _Overheard:
    """A request's `receive` that writes the body to the log when it is whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body = b""

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            room = PROMPT_BYTES - len(self._body)
            self._body += message.get("body", b"")[:room]
            if not message.get("more_body", False) and self._body:
                log.info("body", text=self._body.decode("utf-8", "replace"))
                self._body = b""
        return message
