"""One request to the server under test, and what is written down of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cluster.bench.answer import Answer
from cluster.bench.http import Connections
from cluster.bench.prompts import Message
from cluster.bench.result import Request, Status
from cluster.bench.sessions import Turn
from cluster.core.errors import AnswerFailed

PATH = "/v1/chat/completions"
LENGTH = "max_tokens"


@dataclass(frozen=True, slots=True)
class Body:
    """What every request has besides its messages."""

    model: str
    length: str = LENGTH
    """The field for the number of tokens."""
    fields: Mapping[str, Any] | None = None

    def of(self, messages: Sequence[Message], output: int) -> bytes:
        """The JSON of one request."""
        return json.dumps(
            {
                "model": self.model,
                "messages": messages,
                self.length: output,
                "stream": True,
                "stream_options": {"include_usage": True},
                **(self.fields or {}),
            }
        ).encode()


@dataclass(slots=True)
class Place:
    """Where in a level a request belongs."""

    session: int
    turn: int
    planned: float
    """Seconds from the beginning of the level."""


class Asker:
    """Sends requests and notes their times; `begin` is when the level began (monotonic s)."""

    def __init__(self, connections: Connections, body: Body, timeout: float) -> None:
        self._connections = connections
        self._body = body
        self._timeout = timeout

    async def ask(
        self,
        answer: Answer,
        messages: Sequence[Message],
        turn: Turn,
        place: Place,
        begin: float,
        record: Callable[[Request], None],
    ) -> tuple[Status, float]:
        """How it ended, and for how many seconds the server asks to be left alone. `record` is
        called with the request, also when this is cancelled."""
        sent = time.monotonic()
        status: Status = "unfinished"
        failure = None
        try:
            body = self._body.of(messages, turn.output)
            async with asyncio.timeout(self._timeout):
                whole = await self._connections.post(PATH, body, answer)
            status = "ok" if whole else "cancelled"
        except AnswerFailed as error:
            status, failure = "failed", error
        except TimeoutError:
            status = "failed"
            failure = AnswerFailed("timeout", f"not done within {self._timeout:g} s")
        finally:
            ended = answer.ended if status == "ok" else time.monotonic()
            record(_request(answer, turn, place, status, failure, (begin, sent, ended)))
        return status, failure.retry_after if failure else 0.0


def _request(
    answer: Answer,
    turn: Turn,
    place: Place,
    status: Status,
    failure: AnswerFailed | None,
    times: tuple[float, float, float],
) -> Request:
    begin, sent, ended = times
    pieces, usage = answer.times, answer.usage
    counted = _count(usage, "completion_tokens")
    details = usage.get("prompt_tokens_details")
    return Request(
        session=place.session,
        turn=place.turn,
        planned=place.planned,
        sent=sent - begin,
        end=ended - begin,
        status=status,
        asked_prompt=turn.prompt,
        asked_output=turn.output,
        first=pieces[0] - begin if pieces else None,
        gaps=tuple(b - a for a, b in pairwise(pieces)),
        last=pieces[-1] - begin if pieces else None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else None,
        output_tokens=len(pieces) if counted is None else counted,
        counted=counted is not None,
        finish=answer.finish,
        error=failure.kind if failure else None,
        detail=str(failure) if failure else None,
    )


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None
