"""A stream whose writes are noted."""

from __future__ import annotations

from collections.abc import Mapping

from api.sse import Sink
from cluster.core.errors import TandemError
from cluster.core.timeline import Timeline, Track


class TracedSink:
    """A sink around another."""

    def __init__(self, inner: Sink, timeline: Timeline) -> None:
        self._inner = inner
        self._timeline = timeline

    @property
    def quiet(self) -> float:
        """See Sink."""
        return self._inner.quiet

    async def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """See Sink."""
        begun = self._timeline.now
        await self._inner.start(content_type, headers)
        self._timeline.add(Track.SSE, "headers", begun)

    async def write(self, frames: str) -> None:
        """See Sink."""
        if frames:
            begun = self._timeline.now
            await self._inner.write(frames)
            self._timeline.add(Track.SSE, "write", begun, characters=len(frames))

    async def sign(self, frames: str, after: float) -> None:
        """See Sink."""
        await self._inner.sign(frames, after)

    def fail(self, error: TandemError) -> None:
        """See Sink."""
        self._timeline.details["error"] = type(error).__name__
        self._inner.fail(error)

    async def end(self, frames: str) -> None:
        """See Sink."""
        begun = self._timeline.now
        await self._inner.end(frames)
        self._timeline.add(Track.SSE, "end", begun, characters=len(frames))
