"""Answers that outlive their first client: followed by any number of readers, found again by
conversation, by Idempotency-Key, or by asking the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import structlog

from api.replay import Replay
from api.terms import Terms
from cluster.core.clock import Clock
from cluster.core.errors import (
    Interrupted,
    InvalidRequest,
    QueueFull,
    Replaced,
    ShuttingDown,
    TandemError,
)

log = structlog.stdlib.get_logger("tandem.api")

LEAST_PAUSE = 0.01
"""Seconds between two looks at the leases."""

RETRY_AFTER = 5.0
"""Seconds, for one that finds no room."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of what is kept of streams."""

    buffer_bytes: int = 4 << 20
    """Of one stream's bytes: the newest."""
    keep_seconds: float = 300.0
    """After a stream's end."""
    sweep_seconds: float = 60.0
    """Between two looks at what is too old."""
    lease_seconds: float = 120.0
    """That a stream goes on with nobody following it."""
    streams: int = 1024
    """Running and ended. For a new one the oldest that has ended makes room."""
    total_bytes: int = 512 << 20
    """In memory when a new stream begins, those aside that still run: they are as many as the
    coordinator takes requests."""


@dataclass(frozen=True, slots=True)
class Production:
    """An answer that was taken, and how it is written."""

    run: Callable[[Replay], Awaitable[None]]
    """Writes all of it, its errors too; raises no TandemError."""
    refuse: Callable[[Replay, TandemError], None]
    """Ends it now, with an error."""
    lost: Callable[[TandemError], str]
    """The last that a reader is told which can't be given the rest."""


Begin = Callable[[AsyncExitStack], Awaitable[Production]]
"""Submits a request; what ends the stack's block cancels it. Raises TandemError."""


class Stream:
    """One answer, and who follows it. It is registered, and then has a production."""

    def __init__(
        self, terms: Terms, limits: StreamLimits, clock: Clock, left: Callable[[Stream], None]
    ) -> None:
        self.terms = terms
        self.replay = Replay(limits.buffer_bytes, clock)
        self.started_at = time.time()
        self.production: Production | None = None
        self.followers = 0
        self.left_at: float | None = None
        """Since when nobody follows it, by the clock; None while somebody does."""
        self.lease = limits.lease_seconds if terms.lease is None else terms.lease
        self.delivered = False
        """A reader has had its end."""
        self.scope = anyio.CancelScope()
        self._began_at = clock.now()
        self._clock = clock
        self._left = left

    @property
    def completed_at(self) -> float | None:
        """Unix time; None while it runs."""
        ended = self.replay.ended_at
        return None if ended is None else self.started_at + ended - self._began_at

    @property
    def orphan(self) -> bool:
        """Its clients have left before its end, and it may still be of use to them."""
        replay = self.replay
        used = self.followers or self.delivered or replay.error is not None
        return not used and replay.earliest == 0

    def stop(self, error: TandemError) -> None:
        """End it now, for all its readers and on the cluster. Once it has ended, does nothing."""
        if self.replay.ended_at is None and self.production is not None:
            self.production.refuse(self.replay, error)
            log.info("stream stopped", error=type(error).__name__)
        self.scope.cancel("the stream was stopped")

    def lost(self, error: TandemError) -> bytes:
        """The last that a reader is told when it can't be given the rest."""
        return self.production.lost(error).encode() if self.production else b""

    def come(self) -> None:
        """Somebody follows, until as many calls of `leave`."""
        self.followers += 1
        self.left_at = None

    def leave(self) -> None:
        """Somebody follows no longer."""
        self.followers -= 1
        if not self.followers:
            self.left_at = self._clock.now()
            self._left(self)
            self.release()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While in the block, somebody follows."""
        self.come()
        try:
            yield
        finally:
            self.leave()

    def release(self) -> None:
        """Once it has ended, let go of the request and all it holds; a reader that comes later
        can't be overtaken."""
        if self.replay.ended_at is not None and not self.followers:
            self.production = None


class Streams:
    """All streams of one server. Runs between `open` and `aclose`."""

    def __init__(self, limits: StreamLimits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._all: dict[Stream, None] = {}
        self._by_conversation: dict[tuple[str, str], Stream] = {}
        self._by_key: dict[tuple[str, str], Stream] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._finding = anyio.Lock(fast_acquire=True)
        self._sooner = anyio.Event()
        self._tending: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._all)

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(stream.replay.held for stream in self._all)

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Run in `tasks`, until `aclose`."""
        self._tasks = tasks
        self._tending = tasks.create_task(self._tend(), name="streams")

    async def aclose(self) -> None:
        """End every stream and so every reader; none can begin after this."""
        self._tasks = None
        if self._tending is not None:
            self._tending.cancel("the server is stopping")
        for stream in list(self._all):
            stream.stop(ShuttingDown("the server is stopping", retry_after=RETRY_AFTER))
            self._drop(stream)

    @asynccontextmanager
    async def opened(self, terms: Terms, begin: Begin) -> AsyncIterator[tuple[Stream, bool]]:
        """The stream of a request, followed while in the block, and whether it was there already.

        Raises what `begin` does, InvalidRequest for a key that belongs to another request, and
        QueueFull.
        """
        with anyio.CancelScope(shield=True):  # from here on it needs no client
            stream, found = await self._found(terms, begin)
        try:
            yield stream, found
        finally:
            stream.leave()

    def find(self, terms: Terms) -> Stream | None:
        """The stream that a request attaches to instead of being computed.

        Raises InvalidRequest for a key that belongs to another request.
        """
        if terms.key is not None:
            stream = self._by_key.get((terms.owner, terms.key))
            if stream is not None and stream.replay.error is None:
                if not stream.terms.same(terms):
                    raise InvalidRequest(
                        "Idempotency-Key: it was sent before with another body, path or "
                        "conversation; a new request needs a new key",
                        param="Idempotency-Key",
                    )
                return stream
        return self.orphan(terms)

    def orphan(self, terms: Terms) -> Stream | None:
        """A stream that asks the same, and that its clients have left."""
        if not terms.digest:
            return None
        return next(
            (each for each in self._all if each.terms.repeated_by(terms) and each.orphan), None
        )

    def of_conversation(self, owner: str, conversation: str) -> Stream | None:
        """The latest of a conversation."""
        return self._by_conversation.get((owner, conversation))

    def lookup(self, owner: str, conversations: Collection[str]) -> list[Stream]:
        """The latest of each of these conversations and of their `id::variant` forms."""
        asked = frozenset(conversations)

        def wanted(name: str) -> bool:
            parts = name.split("::")
            return any("::".join(parts[: n + 1]) in asked for n in range(len(parts)))

        every = self._by_conversation.items()
        return [stream for (whose, name), stream in every if whose == owner and wanted(name)]

    def delete(self, owner: str, conversation: str) -> None:
        """Stop the stream of a conversation, if there is one, and forget it."""
        if (stream := self.of_conversation(owner, conversation)) is not None:
            stream.stop(Interrupted("the answer is incomplete: its user has stopped it"))
            self._drop(stream)

    def sweep(self) -> None:
        """Stop what nobody has followed for its lease, and forget what is too old."""
        now = self._clock.now()
        for stream in list(self._all):
            if (ended := stream.replay.ended_at) is not None:
                if now - ended >= self.limits.keep_seconds:
                    self._drop(stream)
            elif stream.left_at is not None and now - stream.left_at >= stream.lease:
                stream.stop(
                    Interrupted(
                        f"the answer is incomplete: nobody followed it for {stream.lease:g} s"
                    )
                )

    async def _found(self, terms: Terms, begin: Begin) -> tuple[Stream, bool]:
        """A stream that is followed, and whether it was there already."""
        async with self._finding:  # of two that are equal, the second finds the first
            existing = self.find(terms)
            stream = existing or await self._begin(terms, begin)
            if existing is not None and terms.lease is not None:
                stream.lease = terms.lease
            stream.come()
        return stream, existing is not None

    async def _begin(self, terms: Terms, begin: Begin) -> Stream:
        if self._tasks is None:
            raise ShuttingDown("the server is stopping", retry_after=RETRY_AFTER)
        self._make_room()
        stream = Stream(terms, self.limits, self._clock, self._left)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._tasks.create_task(self._run(stream, begin, taken), name="stream")
        task.add_done_callback(lambda _: taken.cancel())  # where it never began
        await taken
        return stream

    async def _run(self, stream: Stream, begin: Begin, taken: asyncio.Future[None]) -> None:
        """Owns what is computed: nothing of it is left when this ends."""
        bug = TandemError("a bug in Tandem; its log says more")
        try:
            async with AsyncExitStack() as stack:
                stream.production = await begin(stack)
                self._register(stream)
                taken.set_result(None)
                with stream.scope:
                    await stream.production.run(stream.replay)
        except TandemError as error:
            if not taken.done():
                taken.set_exception(error)
        except Exception:  # a task of the server: it must not end with one answer
            log.exception("a stream has failed")
        finally:
            stream.stop(bug)
            stream.release()
            if not taken.done():
                taken.set_exception(bug)

    def _register(self, stream: Stream) -> None:
        """From here on it can be found, in the place of the conversation's one before it."""
        if self._tasks is None:
            raise ShuttingDown("the server is stopping", retry_after=RETRY_AFTER)
        terms = stream.terms
        if terms.conversation is not None:
            place = terms.owner, terms.conversation
            if (old := self._by_conversation.pop(place, None)) is not None:
                old.stop(Replaced("a newer request of this conversation has taken its place"))
                if old.terms.key is None or old.replay.error is not None:
                    self._drop(old)
            self._by_conversation[place] = stream
        if terms.key is not None:
            if (failed := self._by_key.get((terms.owner, terms.key))) is not None:
                self._drop(failed)
            self._by_key[terms.owner, terms.key] = stream
        self._all[stream] = None

    def _drop(self, stream: Stream) -> None:
        """Forget it; who reads it reads on."""
        self._all.pop(stream, None)
        owner, conversation, key = stream.terms.owner, stream.terms.conversation, stream.terms.key
        if conversation and self._by_conversation.get((owner, conversation)) is stream:
            del self._by_conversation[owner, conversation]
        if key and self._by_key.get((owner, key)) is stream:
            del self._by_key[owner, key]

    def _make_room(self) -> None:
        """Forget the oldest that have ended, as far as needed; raises QueueFull."""
        full = len(self._all) >= self.limits.streams
        over = self.held - self.limits.total_bytes
        if not full and over <= 0:
            return
        ended = [each for each in self._all if each.replay.ended_at is not None]
        for stream in sorted(ended, key=lambda each: each.replay.ended_at or 0.0):
            if len(self._all) < self.limits.streams and over <= 0:
                return
            over -= stream.replay.held
            self._drop(stream)
        if len(self._all) >= self.limits.streams:
            raise QueueFull(
                f"{len(self._all)} streams are under way, as many as are kept",
                retry_after=RETRY_AFTER,
            )

    def _left(self, stream: Stream) -> None:
        if stream.lease <= 0:
            self.sweep()
        self._sooner.set()

    async def _tend(self) -> None:
        while True:
            self._sooner = anyio.Event()
            with anyio.move_on_after(self._pause()):
                await self._sooner.wait()
            self.sweep()

    def _pause(self) -> float:
        """Seconds until the next lease is over, or until it is time to look at the rest."""
        now = self._clock.now()
        leases = (
            each.left_at + each.lease - now
            for each in self._all
            if each.left_at is not None and each.replay.ended_at is None
        )
        first = min(leases, default=self.limits.sweep_seconds)
        return max(LEAST_PAUSE, min(first, self.limits.sweep_seconds))
