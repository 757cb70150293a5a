"""One streamed chat completion as it arrives: when each piece came, and how it ended. Pure; the
bytes and their times are passed in."""

from __future__ import annotations

import json
from array import array
from typing import Any

from cluster.bench.events import DONE, Events
from cluster.core.errors import AnswerFailed

BODY = 1 << 16
"""Bytes of an error's body that are looked at."""
DETAIL = 200
"""Letters of an error that are kept."""
RETRY = 60.0
"""Seconds of a Retry-After at most."""

TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Fields of a delta that hold what was generated."""


class Answer:
    """Takes what comes of one response. `hang_up` is the number of pieces after which its
    reader has had enough."""

    def __init__(self, hang_up: int | None = None) -> None:
        self.times = array("d")
        """When each piece with text came; monotonic seconds."""
        self.text = ""
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}
        self.complete = False
        """The stream has said that it is over."""
        self.ended = 0.0
        """When the last of it came; monotonic seconds."""
        self._hang_up = hang_up
        self._events = Events()
        self._status = 0
        self._retry_after = 0.0
        self._body: list[bytes] = []
        self._room = BODY

    @property
    def enough(self) -> bool:
        """The reader leaves here, in the middle of the answer."""
        return (
            self._hang_up is not None
            and self._status == 200
            and not self.complete
            and len(self.times) >= self._hang_up
        )

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers, names in lower case; raises AnswerFailed for a 200 that is no
        stream."""
        self._status = status
        kind = headers.get("content-type", "")
        try:
            self._retry_after = min(max(float(headers.get("retry-after", 0)), 0.0), RETRY)
        except ValueError:  # a date
            self._retry_after = 1.0
        if status == 200 and "event-stream" not in kind:
            raise AnswerFailed("bad_stream", f"asked for a stream, it answered {kind or 'nothing'}")

    def body(self, data: bytes, now: float) -> None:
        """Some bytes of the body; raises AnswerFailed for what is no answer."""
        self.ended = now
        if self._status != 200:
            self._body.append(data[: self._room])
            self._room -= len(self._body[-1])
            return
        for event in self._events.feed(data):
            if event == DONE:
                self.complete = True
            else:
                self._take(event, now)

    def end(self) -> None:
        """Nothing more comes; raises AnswerFailed unless that was a whole answer."""
        if self._status != 200:
            raise self._refusal()
        if not self.complete and self.finish is None:
            raise AnswerFailed("hung_up", "the stream ended before the answer did")
        if not self.times:
            raise AnswerFailed("empty", "the answer has no text")

    def _take(self, event: bytes, now: float) -> None:
        try:
            found = json.loads(event)
            if error := found.get("error"):
                message = error.get("message", error) if isinstance(error, dict) else error
                raise AnswerFailed("error_event", _short(message))
            if usage := found.get("usage"):
                self.usage = usage
            for choice in found.get("choices") or ():
                delta = choice.get("delta") or {}
                if any(delta.get(name) for name in TEXTS):
                    self.times.append(now)
                    self.text += delta.get("content") or ""
                if reason := choice.get("finish_reason"):
                    self.finish = str(reason)
        except (ValueError, AttributeError, TypeError) as error:
            raise AnswerFailed("bad_stream", f"an event is no completion: {error}") from error

    def _refusal(self) -> AnswerFailed:
        raw = b"".join(self._body)
        try:
            found = json.loads(raw)
            error = found.get("error", found.get("detail", found))
            message = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError):
            message = raw.decode("utf-8", "replace")
        return AnswerFailed(f"http_{self._status}", _short(message), retry_after=self._retry_after)


def _short(message: object) -> str:
    words = " ".join(str(message).split())[:DETAIL]
    return words.encode("utf-8", "replace").decode()  # JSON can spell half a character
