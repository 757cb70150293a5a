"""An id for every HTTP request, in its answer and in the log."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEY = "tandem.request_id"


def request_id(scope: Scope) -> str:
    """The id that RequestIds gave to this request; empty outside of it."""
    found: str = scope.get(_KEY, "")
    return found


class RequestIds:
    """ASGI middleware: gives each request an unguessable id, and its answer `x-request-id`, which
    Anthropic's clients know as `request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ours = scope[_KEY] = f"req_{secrets.token_hex(16)}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = ours
            await send(message)

        await self._app(scope, receive, send_with_id)
