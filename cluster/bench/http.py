"""HTTP/1.1 for one purpose: many streams in one process, each byte with the time it came.

A protocol on top of asyncio's transports with h11 to take messages apart: between the socket and
the clock there is no task to be woken and no queue, and a token costs little more than half of
what it does through a general client (docs/bench.md has the figures).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import h11

from cluster.core.errors import AnswerFailed

CONNECT = 10.0
"""Seconds in which a connection must be made."""


class Reader(Protocol):
    """What takes a response; each call may raise AnswerFailed, which ends the exchange."""

    @property
    def enough(self) -> bool:
        """Hang up now."""
        ...

    def head(self, status: int, headers: dict[str, str]) -> None:
        """The response begins."""
        ...

    def body(self, data: bytes, now: float) -> None:
        """More of it, read at `now` (monotonic seconds)."""
        ...

    def end(self) -> None:
        """It is over."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str
    """In front of /v1."""
    tls: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Connections:
    """Connections to one server, kept for the next request where it lets us. As many as there
    are requests at a time. `close` ends them all."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def post(self, path: str, body: bytes, reader: Reader) -> bool:
        """Send, and have `reader` take the response; whether it was read to its end, and not
        left because it was `enough`.

        Raises AnswerFailed. Cancelling it closes the connection.
        """
        connection = self._kept() or await self._connect()
        try:
            return await connection.exchange(self._request(path, body), body, reader)
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                self._all.discard(connection)
                connection.close()

    def _kept(self) -> _Connection | None:
        """One that is still open."""
        while self._idle:
            if (connection := self._idle.pop()).reusable:
                return connection
            self._all.discard(connection)
        return None

    def close(self) -> None:
        """End all connections; twice is no harm."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        target = self._target
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT):
                _, connection = await loop.create_connection(
                    _Connection, target.host, target.port, ssl=target.tls
                )
        except TimeoutError as error:
            raise AnswerFailed("connect", f"no connection within {CONNECT:g} s") from error
        except OSError as error:  # TLS's errors among them
            raise AnswerFailed("connect", str(error)) from error
        self._all.add(connection)
        return connection

    def _request(self, path: str, body: bytes) -> h11.Request:
        target = self._target
        host = f"[{target.host}]" if ":" in target.host else target.host
        headers = {
            "Host": f"{host}:{target.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept": "text/event-stream",
            "User-Agent": "tandem-bench",
            **target.headers,
        }
        return h11.Request(method="POST", target=target.path + path, headers=[*headers.items()])


class _Connection(asyncio.Protocol):
    """One connection with at most one request at a time."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._over: asyncio.Future[bool] | None = None

    @property
    def reusable(self) -> bool:
        """It is open, and the last exchange is over on both sides."""
        return self._transport is not None and self._http.our_state is h11.IDLE

    def close(self) -> None:
        """Without waiting for what has not been sent."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def exchange(self, request: h11.Request, body: bytes, reader: Reader) -> bool:
        """See Connections.post."""
        if self._transport is None:
            raise AnswerFailed("hung_up", "the connection closed as soon as it was made")
        self._over = asyncio.get_running_loop().create_future()
        self._reader = reader
        head = self._http.send(request) or b""
        end = self._http.send(h11.Data(data=body)) or b""
        self._transport.write(head + end + (self._http.send(h11.EndOfMessage()) or b""))
        try:
            whole = await self._over
        finally:
            self._reader = None
        if whole and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return whole

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._take(data, time.monotonic())

    def eof_received(self) -> bool:
        self._take(b"", time.monotonic())
        return False  # close: whoever half-closes has nothing more to say

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        reason = f": {exc}" if exc else ""
        self._end(AnswerFailed("hung_up", f"the connection closed{reason}"))

    def _take(self, data: bytes, now: float) -> None:
        """Hand on what these bytes are; b"" is the end of all."""
        if self._reader is None or self._over is None or self._over.done():
            return
        try:
            self._http.receive_data(data)
            while self._hand_on(now):
                if self._reader.enough:
                    self._end(None, whole=False)
                    return
        except AnswerFailed as failure:
            self._end(failure)
        except h11.RemoteProtocolError as error:
            kind = "hung_up" if not data else "bad_http"
            self._end(AnswerFailed(kind, str(error)))

    def _hand_on(self, now: float) -> bool:
        """One part of the response; False when there is none."""
        assert self._reader is not None
        match event := self._http.next_event():
            case h11.Data():
                self._reader.body(bytes(event.data), now)
            case h11.Response():
                names = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                self._reader.head(event.status_code, names)
            case h11.EndOfMessage():
                self._reader.end()
                self._end(None)
            case h11.InformationalResponse():
                pass
            case _:  # NEED_DATA, PAUSED, ConnectionClosed
                return False
        return True

    def _end(self, failure: AnswerFailed | None, *, whole: bool = True) -> None:
        if self._over is not None and not self._over.done():
            if failure is None:
                self._over.set_result(whole)
            else:
                self._over.set_exception(failure)
