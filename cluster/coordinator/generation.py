"""A request under way, as the API holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from cluster.coordinator.journal import Entry
from cluster.core.channel import ChannelState
from cluster.core.ids import RequestId
from cluster.core.request import Finish, Piece, Progress, StepTiming, Timing, Usage


class Generation:
    """The answer as it comes, and the means to stop it.

    Used as a context manager: leaving it cancels what still runs. One reader at a time.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._channel = entry.channel
        self._changed = asyncio.Event()
        self._channel.wake = self._changed.set

    @property
    def id(self) -> RequestId:
        """The request's id, as clients see it."""
        return self._entry.request.id

    @property
    def finish(self) -> Finish | None:
        """Why it ended; None while it runs."""
        return self._channel.finish

    @property
    def usage(self) -> Usage:
        """Token counts; exact once `finish` is set."""
        return self._entry.usage

    @property
    def progress(self) -> Progress:
        """Where it is now."""
        return self._entry.sequence.progress

    @property
    def timing(self) -> Timing:
        """How long its parts took; exact once `finish` is set."""
        return self._entry.timing

    @property
    def stop(self) -> str | None:
        """The stop string that ended it, if one has."""
        return self._entry.text.found

    @property
    def ids(self) -> tuple[int, ...]:
        """The answer's ids so far, without one that ends it."""
        return self._entry.ids

    @property
    def steps(self) -> tuple[StepTiming, ...]:
        """The latest steps that computed for it; empty unless the order wants them recorded."""
        return tuple(self._entry.steps or ())

    def cancel(self) -> None:
        """Stop it: an edit to the next step. Never blocks; once it is over, does nothing."""
        self._entry.cancel(self.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces until the last; a slow reader gets several joined into one. Raises what the
        request failed with (a TandemError). A cancelled one just ends."""
        while True:
            self._changed.clear()
            if (piece := self._channel.take()) is not None:
                yield piece
            elif self._channel.state is not ChannelState.OPEN:
                break
            else:
                await self._changed.wait()
        if self._channel.error is not None:
            raise self._channel.error
