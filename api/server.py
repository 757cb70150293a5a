"""How uvicorn runs the API: what it needs to hear of a hang-up at once, and to answer in shape.

Of uvicorn's two HTTP/1.1 parsers this takes h11. Both close on a FIN, and so tell the request
at once, but httptools starts the next request's cycle while an answer is under way, and from
then on tells only that one of the hang-up; bytes after a request that are no HTTP make it write
a 400 into the middle of a stream; and it reads headers of any size.
"""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import error_body
from cluster.core.errors import InvalidRequest

PIPELINED_BYTES = 65536
"""What a client may send ahead while its answer is under way, before it is no longer read."""

HEADER_BYTES = 65536
"""Most bytes of a request's first line and headers."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that hears a hang-up whatever else is going on."""

    @property
    def _under_way(self) -> bool:
        """True from a request's headers to the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn stops reading when a client sends its next request early, and a connection
        # that is not read says nothing of its end.
        if self._under_way and not self.cycle.more_body and not self.transport.is_closing():
            ahead, _ = self.conn.trailing_data
            if len(ahead) < PIPELINED_BYTES:
                self.flow.resume_reading()

    def eof_received(self) -> None:
        # Without this asyncio closes the transport, but says so only once all that was written
        # has been taken, and a client that has half-closed may never take it.
        if self._under_way:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of an answer; nothing else can be said
            return
        body = json.dumps(error_body(InvalidRequest(msg))).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def server_config(
    app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0, stop_seconds: int = 3
) -> uvicorn.Config:
    """Settings of the server. When it is told to stop it waits `stop_seconds` for answers that
    are under way, so end those first (the coordinator's orderly stop does)."""
    protocol: type[asyncio.Protocol] = PromptProtocol
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=stop_seconds,
    )
