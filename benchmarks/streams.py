"""Streaming chat completions over plain sockets, several at once in one thread, with the time
at which each piece of text came."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Self


class ContestFailed(Exception):
    """Raised when a contestant does not do what it is asked: it exits, refuses, is too late or
    gives another number of tokens."""


class Stream:
    """One request and what has come of its answer."""

    def __init__(self, port: int, content: str, max_tokens: int, **fields: Any) -> None:
        body = json.dumps(
            {
                "messages": [{"role": "user", "content": content}],
                "max_tokens": max_tokens,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **fields,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.times: list[float] = []
        """When each piece of text came; monotonic seconds."""
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.over = False
        """Nothing more will come."""
        self.end = 0.0
        """When the last of it came; monotonic seconds."""
        self._ended = False
        self._rest = b""
        self._status = b""
        self.sent = time.monotonic()
        self.socket.sendall(head + body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; twice is no harm."""
        self.socket.close()

    def read(self) -> None:
        """Take in what has come; call it when the socket is readable."""
        data = self.socket.recv(1 << 16)
        now = time.monotonic()
        if not data:
            if not self._ended:
                raise ContestFailed(f"the stream broke off: {self._rest[-300:]!r}")
            self.over = True
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.strip(), now)
        if self._status and b" 200 " not in self._status:
            raise ContestFailed(f"{self._status!r}: {(b' '.join(lines) + self._rest)[-400:]!r}")

    def _take(self, line: bytes, now: float) -> None:
        if not self._status:
            self._status = line + b" "
        if not line.startswith(b"data: "):
            return
        if line == b"data: [DONE]":
            self._ended = self.over = True
            self.end = now
            return
        event = json.loads(line[6:])
        if "error" in event:
            raise ContestFailed(f"error in the stream: {event['error']}")
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            if text := (choice.get("delta") or {}).get("content"):
                self.text += text
                self.times.append(now)

    @property
    def tokens(self) -> int:
        """How many the answer has, once it is over."""
        count: int = self.usage["completion_tokens"]
        return count

    @property
    def prompt_tokens(self) -> int:
        count: int = self.usage["prompt_tokens"]
        return count

    @property
    def first_seconds(self) -> float:
        """From sending to the first text; to the end where the answer is half a character."""
        return (self.times[0] if self.times else self.end) - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens a second from the first text to the last. Half a character that is held back
        at the start counts with the first text; in a long answer that is nothing."""
        if len(self.times) < 2:
            raise ContestFailed(f"{self.tokens} tokens came as {len(self.times)} pieces")
        return (self.tokens - 1) / (self.times[-1] - self.times[0])


def pump(streams: Sequence[Stream], until: Callable[[], bool], seconds: float) -> None:
    """Read `streams` as their answers come, until `until()`; raises ContestFailed when it is
    not within `seconds`."""
    if not _read(streams, until, seconds):
        raise ContestFailed(f"not within {seconds:.0f} s")


def read_for(streams: Sequence[Stream], seconds: float) -> None:
    """Read `streams` for so long, whatever comes."""
    _read(streams, lambda: False, seconds)


def _read(streams: Sequence[Stream], until: Callable[[], bool], seconds: float) -> bool:
    """True once `until()`, False after `seconds`."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not stream.over:
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                key.data.read()
                if key.data.over:
                    selector.unregister(key.data.socket)
    return True


def finish(streams: Sequence[Stream], max_tokens: int, seconds: float = 300.0) -> None:
    """Read all `streams` to their end; raises ContestFailed unless each has `max_tokens`."""
    pump(streams, lambda: all(stream.over for stream in streams), seconds)
    for stream in streams:
        if stream.tokens != max_tokens:
            raise ContestFailed(f"{stream.tokens} tokens, not {max_tokens}: {stream.text[-100:]!r}")
