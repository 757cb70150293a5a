"""A stream that goes to the store of responses, and to a client if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from api.responses_store import ResponsesStore
from api.sse import Sink
from api.stored_response import Stored
from cluster.core.errors import TandemError


class Recording:
    """A sink beside another. What is stored is closed exactly once: by `end`, or by `close`."""

    def __init__(
        self,
        store: ResponsesStore,
        owner: str,
        stored: Stored | None,
        inner: Sink | None,
        begin: Callable[[], str],
    ) -> None:
        """`stored` and `inner` may be None: nothing is stored, nobody listens. `begin` gives the
        events that are written as soon as it starts."""
        self._store = store
        self._owner = owner
        self._stored = stored
        self._inner = inner
        self._begin = begin
        if stored is not None:
            store.open(owner, stored)

    @property
    def quiet(self) -> float:
        """See Sink."""
        return 0.0 if self._inner is None else self._inner.quiet

    async def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """See Sink."""
        if self._inner is not None:
            await self._inner.start(content_type, headers)
        await self.write(self._begin())

    async def write(self, frames: str) -> None:
        """See Sink."""
        if self._stored is not None:
            self._stored.add(frames)
        if self._inner is not None:
            await self._inner.write(frames)

    async def sign(self, frames: str, after: float) -> None:
        """See Sink; a sign of life is for who listens now."""
        if self._inner is not None:
            await self._inner.sign(frames, after)

    def fail(self, error: TandemError) -> None:
        """See Sink; what is stored is told by the last frames."""
        if self._inner is not None:
            self._inner.fail(error)

    async def end(self, frames: str) -> None:
        """See Sink. Stored before the client knows that it is over, and may refer to it."""
        self.close(lambda: frames)
        if self._inner is not None:
            await self._inner.end(frames)

    def close(self, last: Callable[[], str]) -> None:
        """`last` gives the events that end it, unless it has ended."""
        if self._stored is not None and not self._stored.over:
            self._stored.add(last())
            self._store.close(self._owner, self._stored)
