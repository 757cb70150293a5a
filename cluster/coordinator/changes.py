"""Machines come and go, and several groups wait for that: none misses what another has seen."""

from __future__ import annotations

import asyncio


class Changes:
    """Counted, so that whoever waits sees what has come since its own last look."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def note(self) -> None:
        """There is one more."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def beyond(self, count: int) -> None:
        """Wait until there are more than `count`."""
        while self.count <= count:
            await self._next.wait()
