"""POST /v1/messages/count_tokens: how many tokens the prompt of a message would have."""

from __future__ import annotations

from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.body import parse_object, read_body
from api.caller import caller_of
from api.convert.anthropic import AnthropicMessages
from api.convert.orders import render
from api.routes.models import check_model
from api.service import Service


class CountTokens:
    """The endpoint. It reads and renders as a message would be, and submits nothing; the prompt
    may be longer than the context."""

    def __init__(self, service: Service, dialect: AnthropicMessages) -> None:
        self._service = service
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TandemError, for the application to answer."""
        body = await read_body(scope, receive, self._service.coordinator.limits.body_bytes)
        if body is not None:
            count = await to_thread.run_sync(
                self._count, body, caller_of(scope).owner, limiter=self._service.tokenizing
            )
            await JSONResponse({"input_tokens": count})(scope, receive, send)

    def _count(self, body: bytes, owner: str) -> int:
        ask = self._dialect.read_count(parse_object(body))
        coordinator = self._service.coordinator
        check_model(ask.model, coordinator.model)
        _, prompt = render(ask, coordinator.tokenizer, self._service.recall, owner=owner)
        return len(prompt)
