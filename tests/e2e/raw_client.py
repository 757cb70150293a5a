"""A client that is nothing but a socket: it sees each byte when it comes, and can leave rudely."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Self

from tests.e2e.cluster_process import Server


class RawClient:
    """One chat completion over a plain socket."""

    def __init__(self, server: Server, content: str, **fields: Any) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self.received = b""
        self.gaps: list[float] = []
        """Seconds of silence before each read that brought something."""
        self._sock.sendall(head.encode() + body)
        self.begin = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, seconds: float) -> bytes:
        """What comes next, within `seconds`; b"" at the end. TimeoutError when nothing does."""
        self._sock.settimeout(seconds)
        data = self._sock.recv(65536)
        now = time.monotonic()
        self.gaps.append(now - self._last)
        self._last = now
        self.received += data
        return data

    def read_until(self, wanted: bytes, seconds: float) -> float:
        """Read until `wanted` has come; seconds since the request was sent."""
        end = time.monotonic() + seconds
        while wanted not in self.received:
            assert self.read(max(0.01, end - time.monotonic())), f"ended: {self.received[-300:]!r}"
        return time.monotonic() - self.begin

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN), and go on reading."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up; twice is no harm."""
        self._sock.close()
