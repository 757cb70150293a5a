"""Watches this program while it measures: what it can't keep up with is no fault of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from cluster.bench.result import Client

TICK = 0.02
"""Seconds between two looks at the clock."""
WATCH = 0.25
"""Seconds between two calls of `watch`."""
TICKS = 1_000_000
"""That are kept: five hours."""


class Meter:
    """Measures by how much the event loop is late, and how much of a core is used."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._begin = time.monotonic()
        self._cpu = time.process_time()

    async def run(self, watch: Callable[[], None]) -> None:
        """Until it is cancelled."""
        self._begin, self._cpu = time.monotonic(), time.process_time()
        shown = 0.0
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if len(self._lags) < TICKS:
                self._lags.append(now - due)
            if now - shown >= WATCH:
                shown = now
                watch()

    def client(self) -> Client:
        """So far."""
        took = time.monotonic() - self._begin
        cpu = (time.process_time() - self._cpu) / took if took > 0 else 0.0
        return Client(cpu, float(np.percentile(self._lags, 99)) if self._lags else 0.0)
