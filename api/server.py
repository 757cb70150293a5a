"""How uvicorn runs the API: what it needs to hear of a hang-up at once, and to answer in shape.

Of uvicorn's two HTTP/1.1 parsers this takes h11. Both close on a FIN, and so tell the request
at once, but httptools starts the next request's cycle while an answer is under way, and from
then on tells only that one of the hang-up; bytes after a request that are no HTTP make it write
a 400 into the middle of a stream; and it reads headers of any size.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from http import HTTPStatus

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

HEADER_SECONDS = 30.0
"""Longest that a connection may take to send a request's first line and headers, or be of no use;
uvicorn itself ends those that are silent after an answer, but not those that send a little."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that hears a hang-up whatever else is going on, and waits for no one forever."""

    header_seconds = HEADER_SECONDS
    _unused: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unwatch()
        self._watch()

    def _watch(self) -> None:
        """See to it that a connection without a request under way ends in time."""
        if self._under_way:
            self._unwatch()
        elif self._unused is None and not self.transport.is_closing():
            self._unused = self.loop.call_later(self.header_seconds, self._end_unused)

    def _unwatch(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None

    def _end_unused(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = f"{self.header_seconds:g} seconds"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the headers took more than {seconds}")
        else:
            self.transport.close()

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
        self._watch()

    def eof_received(self) -> None:
        # Without this asyncio closes the transport, but says so only once all that was written
        # has been taken, and a client that has half-closed may never take it.
        if self._under_way:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]  # what uvicorn's caller has caught: it hands over less
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            msg = f"the first line and headers have more than {HEADER_BYTES} bytes"
        else:
            status = HTTPStatus.BAD_REQUEST
        self._refuse(status, msg)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what could not be read as a request, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of an answer; nothing else can be said
            return
        body = json.dumps(error_body(InvalidRequest(message))).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        reason = status.phrase.encode()
        answer = h11.Response(status_code=status.value, headers=headers, reason=reason)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def server_config(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    stop_seconds: int = 3,
    tls: ssl.SSLContext | None = None,
) -> uvicorn.Config:
    """Settings of the server; https with `tls` (`load_tls`). When it is told to stop it waits
    `stop_seconds` for answers that are under way, so end those first (the coordinator's orderly
    stop does)."""
    protocol: type[asyncio.Protocol] = PromptProtocol
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=stop_seconds,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
