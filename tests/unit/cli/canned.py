"""A small HTTP server with prepared answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stream:
    """An event stream: each item is written at once; after the last, perhaps, no end."""

    pieces: list[str]
    hold: bool = False
    """Keep the connection open until the client closes it, and note that in `hung_up`."""


@dataclass
class CannedServer:
    """Answers each path with what `answers` holds: (status, object or bytes), or a Stream."""

    answers: dict[str, tuple[int, Any] | Stream] = field(default_factory=dict)
    bodies: list[Any] = field(default_factory=list)
    """JSON bodies of the POSTs so far."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of all requests so far, their names in lower case."""
    hung_up: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def run(self) -> Iterator[CannedServer]:
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                canned.bodies.append(json.loads(self.rfile.read(length)))
                self._answer()

            def _answer(self) -> None:
                canned.headers.append({k.lower(): v for k, v in self.headers.items()})
                match canned.answers.get(self.path, (404, {"detail": "no such path"})):
                    case Stream(pieces, hold):
                        self.send_response(200)
                        self.send_header("content-type", "text/event-stream")
                        self.end_headers()
                        for piece in pieces:
                            self.wfile.write(piece.encode())
                        if hold and self.connection.recv(1) == b"":
                            canned.hung_up.set()
                    case (status, content):
                        body = content if isinstance(content, bytes) else json.dumps(content)
                        self.send_response(status)
                        self.end_headers()
                        self.wfile.write(body if isinstance(body, bytes) else body.encode())

            def log_message(self, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            yield self
            server.shutdown()
            thread.join()


def words(*texts: str, finish: str | None = "stop") -> list[str]:
    """The pieces of a streamed answer."""
    choices: list[dict[str, Any]] = [{"delta": {"content": text}} for text in texts]
    if finish is not None:
        choices.append({"delta": {}, "finish_reason": finish})
    events = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
    return events if finish is None else [*events, "data: [DONE]\n\n"]
