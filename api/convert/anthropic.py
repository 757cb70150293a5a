"""Anthropic's messages: how they are read, and how they are written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.ask import Ask
from api.convert.anthropic_read import ask_of
from api.convert.anthropic_write import MessageWriter, error_object, message_object
from api.convert.fields import checked
from api.dialect import SSE, Choice, Reply
from api.errors import fault_of
from api.schema.anthropic import CountRequest, MessagesRequest
from cluster.core.errors import TandemError


class AnthropicMessages:
    """POST /v1/messages, as an `api.dialect.Dialect`."""

    name = "Anthropic messages"
    prefix = "msg_"
    content_type = SSE

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        return ask_of(checked(MessagesRequest, body))

    def read_count(self, body: dict[str, Any]) -> Ask:
        """A request of which only the prompt's tokens are asked for: it needs no max_tokens."""
        return ask_of(checked(CountRequest, body))

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return message_object(reply, choices[0])

    def writer(self, reply: Reply) -> MessageWriter:
        """See Dialect."""
        return MessageWriter(reply)

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """See Dialect."""
        return fault_of(error).status, error_object(error, request_id)
