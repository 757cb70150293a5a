"""POST /v1/messages/count_tokens: how many tokens the prompt of a message would have."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from api.caller import caller_of
from api.convert.anthropic import AnthropicMessages
from api.convert.orders import render
from api.routes.models import Endpoint
from api.routes.posted import posted
from api.service import Service


def count_tokens(service: Service, dialect: AnthropicMessages) -> Endpoint:
    """Reads and renders as a message would be, and submits nothing; the prompt may be longer than
    the context."""

    def answer(body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        ask = dialect.read_count(body)
        tokenizer = service.fleet.find(ask.model).tokenizer
        owner = caller_of(scope).owner
        _, prompt = render(ask, tokenizer, service.recall, owner=owner)
        return {"input_tokens": len(prompt)}

    return posted(answer, service.tokenizing, service.body_bytes)
