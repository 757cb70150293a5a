"""What a session has to say, on the stream that is open now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cluster.core.session import Body, Session

ACK_SECONDS = 0.5
"""What came is acknowledged by itself when nothing has gone the other way for so long, or twice
that."""

Message = TypeVar("Message")


class Line(Generic[Body, Message]):
    """Writes one message at a time, in order, whoever asks for it."""

    def __init__(
        self,
        session: Session[Body],
        frame: Callable[[int, int, Body | None], Message],
        write: Callable[[Message], Awaitable[None]],
    ) -> None:
        """`frame` makes the message of a number, what it acknowledges, and a body; of number 0
        and None when it only acknowledges. What `write` raises comes out of the methods here."""
        self._session = session
        self._frame = frame
        self._write = write
        self._writing = asyncio.Lock()
        self._due = asyncio.Event()
        self.open = True
        """Once it is false nothing is begun to be written any more."""

    async def flush(self) -> None:
        """Write all that the session has not given out on this stream yet."""
        async with self._writing:
            while self.open and (said := self._session.next()) is not None:
                await self._write(self._frame(*said))

    async def write(self, message: Message) -> None:
        """Write a message that has no number, and is not kept."""
        async with self._writing:
            if self.open:
                await self._write(message)

    def heard(self) -> None:
        """Something was received: `attend` may have to acknowledge it."""
        if self._session.due:
            self._due.set()

    async def attend(self) -> None:
        """Acknowledge what nothing else acknowledges, until cancelled. A task of its own: were
        the readers of both sides to write, each could wait for the other."""
        before = 0
        while self.open:
            late = False
            try:
                async with asyncio.timeout(ACK_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                late = self._session.received - self._session.owed == before
            self._due.clear()
            if self._session.owed and (late or self._session.due):
                await self._acknowledge()
            before = self._session.received - self._session.owed

    async def _acknowledge(self) -> None:
        async with self._writing:
            if self.open:
                await self._write(self._frame(0, self._session.acknowledge(), None))
