"""What sets one dialect apart from another: how it is read, and how it is written.

A dialect is pure: no I/O, no clock. `api.routes.generate` does the rest, the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.ask import Ask
from api.choices import Choices
from cluster.core.answer import Call, Part
from cluster.core.errors import TandemError
from cluster.core.request import Finish, Phase, Progress, TokenLogprob

SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Reply:
    """A request that was taken, as far as its answer tells of it."""

    id: str
    """With the dialect's prefix."""
    request_id: str
    """Of the HTTP request."""
    model: str
    created: float
    """Unix time at which it was taken."""
    ask: Ask
    choices: Choices
    """Counts and times; exact once all are over."""
    warning: str = ""
    """What was asked for and is not done."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer."""

    index: int
    text: str
    thought: str
    calls: tuple[Call, ...]
    finish: Finish
    """STOP or LENGTH."""
    stop: str | None = None
    """The stop string that ended it."""
    logprobs: tuple[TokenLogprob, ...] = ()


class Writer(Protocol):
    """Writes one stream. Every method returns what is to be sent, whole events or lines; ""
    for nothing. `index` is that of the choice."""

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """Some more of an answer; either may be empty, but not both."""
        ...

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """An answer is complete: by STOP or LENGTH."""
        ...

    def end(self) -> str:
        """All answers are complete: the last that is sent."""
        ...

    def fail(self, error: TandemError) -> str:
        """The request has failed: the last that is sent."""
        ...

    def life(self, progress: Progress) -> str:
        """Nothing else was sent for some seconds, and the cluster makes progress."""
        ...


class Dialect(Protocol):
    """One generating path."""

    @property
    def name(self) -> str:
        """For people: whose it is, and which path of theirs."""
        ...

    @property
    def prefix(self) -> str:
        """Of the request's id: "chatcmpl" gives chatcmpl-1f00..., and "msg_" msg_1f00..."""
        ...

    @property
    def content_type(self) -> str:
        """Of a stream: SSE or NDJSON."""
        ...

    def read(self, body: dict[str, Any]) -> Ask:
        """Raises RequestError that names the offending field."""
        ...

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """The body of an answer that is sent at once."""
        ...

    def writer(self, reply: Reply) -> Writer:
        """For an answer that is streamed."""
        ...

    def refusal(self, error: TandemError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and body of an error that comes before any of the answer."""
        ...


def event(data: str, *, name: str = "") -> str:
    """One server-sent event with one line of data."""
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


def comment(text: str) -> str:
    """What readers of server-sent events read over."""
    return f": {text}\n\n"


def progress_line(progress: Progress) -> str:
    """How far a request is, for a sign of life."""
    if progress.waits:
        return progress.waits
    match progress.phase:
        case Phase.QUEUED:
            return "queued"
        case Phase.PREFILL:
            return f"prefill {progress.prefilled}/{progress.prompt_tokens}"
        case _:
            return f"decode {progress.generated}"
