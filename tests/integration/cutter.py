"""A TCP proxy that loses connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass


@dataclass
class Connection:
    near: StreamWriter
    """To the client."""
    far: StreamWriter
    """To the server."""
    left: int
    """Bytes until it is cut, both directions together."""
    lost: bool = False
    """Nothing that comes is passed on, nor that one side has closed."""


class Cutter:
    """Between clients and a server. Made by `cutting`."""

    def __init__(self, target: str, seed: int) -> None:
        self._host, self._port = target.rsplit(":", 1)
        self._random = random.Random(seed)
        self._connections: list[Connection] = []
        self.most = 0
        """A connection is cut after at most so many bytes; 0 for never. Of those that follow."""
        self.refuses = False
        """Connections that follow are closed at once."""
        self.count = 0
        """Connections that were passed on."""
        self.endpoint = ""

    def cut(self) -> None:
        """Both sides learn that all connections are gone."""
        for connection in self._connections:
            _cut(connection)

    def lose(self, *, told: bool = False) -> None:
        """All connections stay open, and nothing comes any more; or only the clients are `told`
        that they are gone."""
        for connection in self._connections:
            connection.lost = True
            if told:
                connection.near.transport.abort()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        far_reader, far = await asyncio.open_connection(self._host, self._port)
        self.count += 1
        left = self._random.randint(1, self.most) if self.most else 1 << 60
        connection = Connection(writer, far, left)
        self._connections.append(connection)
        await asyncio.gather(_pass(reader, far, connection), _pass(far_reader, writer, connection))
        if not connection.lost:
            self._connections.remove(connection)


async def _pass(reader: StreamReader, writer: StreamWriter, connection: Connection) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            if connection.lost:
                continue
            writer.write(data[: connection.left])
            connection.left -= len(data)
            if connection.left < 0:
                # What came before may still be read: it is closed, not aborted.
                await writer.drain()
                break
            await writer.drain()
    if not connection.lost:
        connection.near.close()
        connection.far.close()


def _cut(connection: Connection) -> None:
    connection.near.transport.abort()
    connection.far.transport.abort()


@asynccontextmanager
async def cutting(target: str, seed: int = 0) -> AsyncIterator[Cutter]:
    """A proxy of "host:port"; its own is `endpoint`."""
    cutter = Cutter(target, seed)
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    cutter.endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cutter
    finally:
        server.close()
        cutter.cut()
        await asyncio.wait_for(server.wait_closed(), 5)
