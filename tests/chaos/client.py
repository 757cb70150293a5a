"""A client that notes when each part of an answer comes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

UNDER_WAY_SECONDS = 0.5
"""After a fault, tokens come that were computed before it."""
WORDS = (
    *("blue", "stone", "river", "apple", "green", "house", "cloud", "table", "water", "light"),
    *("paper", "chair", "music", "bread", "window", "garden", "yellow", "mountain", "silver"),
)
"""What prompts are made of."""


@dataclass(frozen=True, slots=True)
class Question:
    """A greedy request, whose answer is the same whenever it is asked."""

    content: str
    tokens: int
    """It is always answered with so many."""
    varied: bool = False
    """Penalties keep the answer from repeating itself; they also turn drafts off."""
    told: bool = False
    """The stream names every token."""

    def body(self, *, stream: bool) -> dict[str, Any]:
        """As it is sent."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": self.content}],
            "temperature": 0,
            "max_tokens": self.tokens,
            "ignore_eos": True,
        }
        if self.varied:
            body |= {"frequency_penalty": 2.0, "presence_penalty": 2.0}
        if self.told:
            body |= {"logprobs": True}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


@dataclass(slots=True)
class Record:
    """What has come of one stream."""

    sent: float = field(default_factory=time.monotonic)
    """When, on the monotonic clock; so are all times here."""
    arrivals: list[float] = field(default_factory=list)
    """Of each event with text."""
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    """Those named by the stream, in their order."""
    count: int | None = None
    """Tokens of the answer, as the server counted them."""
    error: str = ""
    """The explicit error that it ended with."""
    finish: str = ""
    over: bool = False
    """[DONE] has come."""
    broken: str = ""
    """How the connection ended, if neither an error nor the end was said before."""
    hung_up: bool = False

    def read(self, line: str) -> None:
        """Note one line of the stream."""
        if not line.startswith("data: "):
            return
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.over = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = str(event["error"].get("code") or event["error"].get("type"))
            return
        if event.get("usage"):
            self.count = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            likely = (choice.get("logprobs") or {}).get("content") or []
            self.tokens += [each["token"] for each in likely]
            if text := choice["delta"].get("content"):
                self.text += text
                self.arrivals.append(time.monotonic())

    def pause(self, fault: float) -> float:
        """Seconds from a fault at that time to the next token: to the end of the longest silence
        that had begun by then or soon after, since what was under way still comes."""
        times = [self.sent, *self.arrivals]
        gaps = [
            (end - max(begin, fault), end)
            for begin, end in pairwise(times)
            if begin < fault + UNDER_WAY_SECONDS and end > fault
        ]
        return max(gaps)[1] - fault if gaps else 0.0


class Stream:
    """A streamed answer, read by a thread."""

    def __init__(self, url: str, question: Question, *, leave_after: int | None = None) -> None:
        """`leave_after` so many events with text, it hangs up."""
        self.question = question
        self.record = Record()
        self._url = url
        self._leave_after = leave_after
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """It is being read."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> Record:
        """All of it; AssertionError when it takes longer."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"after {seconds} s: {self.record}"
        return self.record

    def _read(self) -> None:
        record = self.record
        url = f"{self._url}/v1/chat/completions"
        try:
            with httpx.stream(
                "POST", url, json=self.question.body(stream=True), timeout=60
            ) as response:
                if response.status_code != 200:
                    record.error = str(response.status_code)
                    return
                for line in response.iter_lines():
                    record.read(line)
                    if self._leave_after is not None and len(record.arrivals) >= self._leave_after:
                        record.hung_up = True
                        return
        except httpx.HTTPError as error:
            record.broken = repr(error)
