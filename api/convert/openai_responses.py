"""OpenAI's responses, as a dialect. Pure but for what the store of earlier responses says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from api.convert.openai_responses_read import Earlier, ResponsesAsk, read_responses
from api.convert.openai_responses_write import ResponseWriter
from api.dialect import SSE, Choice, Reply
from api.errors import error_body, fault_of
from cluster.core.errors import TandemError


class OpenAIResponses:
    """POST /v1/responses, as an `api.dialect.Dialect`, for one owner of stored responses."""

    name = "OpenAI responses"
    prefix = "resp"
    content_type = SSE

    def __init__(self, earlier: Earlier, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix time, at which a response is complete."""
        self._earlier = earlier
        self._now = now

    def read(self, body: dict[str, Any]) -> ResponsesAsk:
        """See Dialect."""
        return read_responses(body, self._earlier)

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        writer = self.writer(reply)
        writer.whole(choices[0])
        return writer.response()

    def writer(self, reply: Reply) -> ResponseWriter:
        """See Dialect."""
        return ResponseWriter(reply, self._now)

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """See Dialect."""
        return fault_of(error).status, error_body(error)
