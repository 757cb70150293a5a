"""Probes of links: plain TCP between two agents, as the data plane is.

Both sides first prove, over random numbers of both, that they have the listener's token: the
prober may have reached something else at that address (machines may have equal private ones), and
strangers find the listener. Then the prober sends messages that come back, or bytes that are
counted until it is done. A round trip includes some 0.05 ms of two event loops.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import math
import os
import secrets
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from cluster.core.link import Door, Listening, ProbeOrder, ProbeResult

MOST_SECONDS = 30.0
"""That listeners live."""

MOST_CLIENTS = 1024
MOST_AT_ONCE = 256
"""Connections to one set of listeners; more are closed at once."""

MOST_HOSTS = 32
MOST_MESSAGES = 100
MOST_SENDING = 1.0
"""Seconds of one measurement of throughput."""

MOST_BYTES = 1 << 30
CONNECT_SECONDS = 1.5
ANSWER_SECONDS = 1.0
"""For one step of the talk."""

_NONCE, _PROOF, _MESSAGE, _CHUNK = 16, 32, 64, 1 << 20
_ECHO, _COUNT = b"e", b"c"
_TOTAL = struct.Struct("!Q")


@asynccontextmanager
async def listeners(hosts: Sequence[str], seconds: float, clients: int) -> AsyncIterator[Listening]:
    """Answer probes on each of `hosts`, addresses of this machine, for as long as this is entered,
    at most `seconds` and for at most `clients` connections, strangers included."""
    doors: list[Door] = []
    with ExitStack() as sockets:
        async with asyncio.TaskGroup() as group:
            talks = _Talks(group, seconds, clients)
            tasks = []
            for host in hosts[:MOST_HOSTS]:
                try:
                    server = sockets.enter_context(_bound(host))
                except OSError as error:
                    doors.append(Door(host, 0, _words(error)))
                else:
                    doors.append(Door(host, server.getsockname()[1]))
                    accepting = talks.accept(server)
                    tasks.append(group.create_task(accepting, name=f"probes on {host}"))
            try:
                yield Listening(tuple(doors), talks.token)
            finally:
                for task in [*tasks, *talks.under_way]:
                    task.cancel()


async def probe(order: ProbeOrder) -> ProbeResult:
    """What the link to a listener is like; never raises for what the network does."""
    try:
        with _tcp(order.host) as link:
            if order.source:
                _tcp(order.source).close()
                link.bind((order.source, 0))
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(link, (order.host, order.port))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not await _introduce(link, order.token):
                return ProbeResult("something else answers at this address")
            return ProbeResult(
                source=str(link.getsockname()[0]),
                round_trip=await _round_trip(link, order.messages),
                bytes_per_second=await _throughput(link, allowed(order.seconds, MOST_SENDING)),
            )
    except TimeoutError:
        return ProbeResult("no answer in time")
    except OSError as error:
        return ProbeResult(_words(error))


def allowed(seconds: float, most: float) -> float:
    """`seconds`, or the nearest that makes sense."""
    return min(max(seconds, 0.0), most) if math.isfinite(seconds) else 0.0


def _tcp(host: str) -> socket.socket:
    """A socket of the family of `host`, which must be the address of one machine: a name would
    be looked up, and the event loop wait for that. Raises OSError."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = ipaddress.ip_address(0)
    if ip.is_unspecified:
        raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address")
    made = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET)
    made.setblocking(False)
    return made


def _bound(host: str) -> socket.socket:
    server = _tcp(host)
    try:
        server.bind((host, 0))
        server.listen(MOST_AT_ONCE)
    except OSError:
        server.close()
        raise
    return server


class _Talks:
    """Connections to one set of listeners; each is a task of `group`."""

    def __init__(self, group: asyncio.TaskGroup, seconds: float, clients: int) -> None:
        self.token = secrets.token_bytes(32)
        self.under_way: set[asyncio.Task[None]] = set()
        self._group = group
        self._end = time.monotonic() + allowed(seconds, MOST_SECONDS)
        self._left = min(clients, MOST_CLIENTS)

    async def accept(self, server: socket.socket) -> None:
        """Take connections until time is up or there were enough, and listen no more then."""
        loop = asyncio.get_running_loop()
        with server:
            while self._left > 0 and (seconds := self._end - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(seconds):
                        client, _ = await loop.sock_accept(server)
                except TimeoutError:
                    return
                except OSError:  # this one has gone again, or there are too many open files
                    await asyncio.sleep(0.01)
                    continue
                if len(self.under_way) >= MOST_AT_ONCE:
                    client.close()
                    continue
                self._left -= 1
                task = self._group.create_task(self._talk(client), name="probe")
                self.under_way.add(task)
                task.add_done_callback(partial(self._over, client))

    def _over(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        client.close()
        self.under_way.discard(task)

    async def _talk(self, client: socket.socket) -> None:
        """One prober, until it is done, misbehaves or time is up."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                async with asyncio.timeout(ANSWER_SECONDS):
                    known = await self._greet(client)
                if known:
                    await _answer(client)
        except (OSError, TimeoutError):
            return

    async def _greet(self, client: socket.socket) -> bool:
        """Prove to the prober that this is the listener; whether it has proved itself."""
        loop = asyncio.get_running_loop()
        nonces = await _read(client, _NONCE) + secrets.token_bytes(_NONCE)
        proof = _proof(self.token, b"listener", nonces)
        await loop.sock_sendall(client, nonces[_NONCE:] + proof)
        shown = await _read(client, _PROOF)
        return hmac.compare_digest(shown, _proof(self.token, b"prober", nonces))


async def _introduce(link: socket.socket, token: bytes) -> bool:
    """The prober's side of `_greet`; whether the listener has proved itself."""
    loop = asyncio.get_running_loop()
    mine = secrets.token_bytes(_NONCE)
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            await loop.sock_sendall(link, mine)
            answer = await _read(link, _NONCE + _PROOF)
        except ConnectionError:
            return False
        nonces = mine + answer[:_NONCE]
        if not hmac.compare_digest(answer[_NONCE:], _proof(token, b"listener", nonces)):
            return False
        await loop.sock_sendall(link, _proof(token, b"prober", nonces))
    return True


async def _answer(client: socket.socket) -> None:
    """Send messages back; count what follows `_COUNT` until it ends, and say how much it was."""
    loop = asyncio.get_running_loop()
    for _ in range(MOST_MESSAGES + 1):
        kind = await loop.sock_recv(client, 1)
        if kind == _ECHO:
            await loop.sock_sendall(client, await _read(client, _MESSAGE))
        elif kind == _COUNT:
            buffer, total = bytearray(_CHUNK), 0
            while total <= MOST_BYTES and (count := await loop.sock_recv_into(client, buffer)):
                total += count
            await loop.sock_sendall(client, _TOTAL.pack(total))
            return
        else:
            return


async def _round_trip(link: socket.socket, messages: int) -> float:
    loop = asyncio.get_running_loop()
    taken = []
    message = _ECHO + bytes(_MESSAGE)
    for _ in range(min(max(messages, 1), MOST_MESSAGES)):
        async with asyncio.timeout(ANSWER_SECONDS):
            begun = time.perf_counter()
            await loop.sock_sendall(link, message)
            await _read(link, _MESSAGE)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


async def _throughput(link: socket.socket, seconds: float) -> float:
    """Bytes per second that arrived; 0 when `seconds` is."""
    if not seconds:
        return 0.0
    loop = asyncio.get_running_loop()
    chunk, sent = memoryview(bytearray(_CHUNK)), 0
    async with asyncio.timeout(seconds + ANSWER_SECONDS):
        begun = time.perf_counter()
        await loop.sock_sendall(link, _COUNT)
        while sent < MOST_BYTES and time.perf_counter() - begun < seconds:
            await loop.sock_sendall(link, chunk)
            sent += _CHUNK
        link.shutdown(socket.SHUT_WR)
        (arrived,) = _TOTAL.unpack(await _read(link, _TOTAL.size))
    return float(arrived) / (time.perf_counter() - begun)


async def _read(link: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; raises ConnectionError when there are no more."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        piece = await loop.sock_recv(link, count - len(data))
        if not piece:
            raise ConnectionAbortedError("the other side has closed the connection")
        data += piece
    return data


def _words(error: OSError) -> str:
    """What the system says; asyncio puts words of its own in its place."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _proof(token: bytes, who: bytes, nonces: bytes) -> bytes:
    return hmac.digest(token, who + nonces, "sha256")
