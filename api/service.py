"""What all endpoints of one server share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from api.background import apart, background
from api.convert.recall import Recall
from api.live import Live
from api.quota import Quota
from api.responses_store import ResponsesStore
from api.serving import Coordinator
from api.streams import StreamLimits, Streams
from api.traces import Exporter, Traces
from cluster.core.clock import Clock, SystemClock

TOKENIZING_THREADS = 2
"""Prompts that are tokenized at the same time; more wait."""


class Service:
    """One server's coordinator, and what the API keeps beside it. Entered while the server runs:
    the application's lifespan does that."""

    tasks: asyncio.TaskGroup
    """For what outlives its request; there once the service is entered, and cancelled when it is
    left."""

    def __init__(
        self,
        coordinator: Coordinator,
        sign_of_life: float,
        streams: StreamLimits | None = None,
        clock: Clock | None = None,
        *,
        trace: int = 0,
        exporter: Exporter | None = None,
    ) -> None:
        """`trace` and `exporter` are of Traces."""
        clock = clock or SystemClock()
        self.coordinator = coordinator
        self.sign_of_life = sign_of_life
        """Seconds of silence before a stream's sign of life."""
        self.recall = Recall()
        self.quota = Quota(clock)
        self.live = Live()
        self.responses = ResponsesStore()
        self.tokenizing = anyio.CapacityLimiter(TOKENIZING_THREADS)
        self.streams = Streams(streams or StreamLimits(), clock)
        self.traces = Traces(clock, trace, exporter)
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.tasks = await self._entered.enter_async_context(background())
        self.tasks.create_task(apart(self.traces.run(), "traces"), name="traces")
        self.streams.open(self.tasks)
        self._entered.push_async_callback(self.streams.aclose)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entered.aclose()
