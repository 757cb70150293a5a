"""Which requests are traced, and the traces that are kept."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from anyio import move_on_after, to_thread
from starlette.datastructures import Headers
from starlette.types import Scope

from api.caller import Caller, caller_of
from api.request_id import request_id
from api.traceparent import HEADER, Parent, parent_of
from cluster.core.clock import Clock
from cluster.core.timeline import Timeline

KEPT = 32
"""Traces of finished requests that are kept, unless told otherwise."""
QUEUED = 64
"""Traces that wait to be exported; one more is dropped."""
LEAVE_SECONDS = 3.0
"""At the end of the server, the exporter has so long for what waits."""
LAST = "last"
"""In place of an id: the request that came last."""

_KEY = "tandem.timeline"

log = structlog.stdlib.get_logger("tandem.api")


@dataclass(slots=True)
class Trace:
    """One traced request."""

    timeline: Timeline
    trace_id: str
    """32 hexadecimal digits."""
    parent: Parent | None
    exported: bool
    """It goes to the exporter when it is over."""
    holders: int = 0
    """Parts of the server that still work on it."""

    def known_as(self, shown: str) -> bool:
        """Whether this is the request that a client knows by such an id: that of its answer, of
        its HTTP request, or of the trace."""
        # A response is shown with an underscore where its request has a dash.
        ids = (*self.timeline.requests, self.timeline.name, self.trace_id)
        return shown in ids or shown.replace("_", "-", 1) in ids


class Exporter(Protocol):
    """Takes finished traces elsewhere."""

    def samples(self, trace_id: str, parent: Parent | None) -> bool:
        """Whether a request is to be exported."""
        ...

    def export(self, trace: Trace) -> None:
        """Send one, in a thread that may wait. Raises nothing: what can't be sent is lost."""
        ...

    def close(self) -> None:
        """Nothing more will come; what is being sent is given up."""
        ...


class Traces:
    """All traces of one server: those under way, which the server's bound on requests bounds,
    and the last finished ones."""

    def __init__(self, clock: Clock, every: int = 0, exporter: Exporter | None = None) -> None:
        """Trace every request and keep the last `every`; with 0, those whose client asks for it
        (traceparent), and those that the exporter samples."""
        self._clock = clock
        self._all = every > 0
        self._exporter = exporter
        self._live: dict[str, Trace] = {}
        self._finished: deque[Trace] = deque(maxlen=every or KEPT)
        self._queue: deque[Trace] = deque()
        self._sending = threading.Lock()
        self._waiting = asyncio.Event()
        self._dropped = 0

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._live)

    @contextmanager
    def following(self, scope: Scope) -> Iterator[None]:
        """A request is served within the block: from its beginning on it is traced, or not."""
        trace = self._begin(scope)
        if trace is None:
            yield
            return
        scope[_KEY] = trace.timeline
        self._live[trace.timeline.name] = trace
        with self.held(trace.timeline):
            yield

    @contextmanager
    def held(self, timeline: Timeline | None) -> Iterator[None]:
        """Another part of the server works on a traced request within the block. With the last
        of them it is over."""
        if timeline is None:
            yield
            return
        trace = self._live[timeline.name]
        trace.holders += 1
        try:
            yield
        finally:
            trace.holders -= 1
            if trace.holders == 0:
                del self._live[timeline.name]
                self._finish(trace)

    def _begin(self, scope: Scope) -> Trace | None:
        parent = parent_of(Headers(scope=scope).get(HEADER))
        asked = parent is not None and parent.sampled
        if not (self._all or asked or self._exporter is not None):
            return None
        trace_id = parent.trace_id if parent is not None else secrets.token_hex(16)
        exported = self._exporter is not None and self._exporter.samples(trace_id, parent)
        if not (self._all or asked or exported):
            return None
        owner, name = caller_of(scope).owner, request_id(scope)
        timeline = Timeline(self._clock, owner, name, time.time())
        timeline.details |= {"method": scope["method"], "path": scope["path"]}
        return Trace(timeline, trace_id, parent, exported)

    def find(self, shown: str, caller: Caller) -> Trace | None:
        """A request by the id that its client knows: one of the caller's own, or of anyone's for
        an operator. None when there is none."""
        seen = [
            trace
            for trace in (*self._finished, *self._live.values())
            if caller.operator or trace.timeline.owner == caller.owner
        ]
        if shown == LAST:
            return max(seen, key=lambda trace: trace.timeline.started, default=None)
        return next((trace for trace in reversed(seen) if trace.known_as(shown)), None)

    async def run(self) -> None:
        """Export what is over, until cancelled; what waits then is sent before it ends."""
        if self._exporter is None:
            return
        exporter = self._exporter
        try:
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                await to_thread.run_sync(self._send, exporter, abandon_on_cancel=True)
        finally:
            with move_on_after(LEAVE_SECONDS, shield=True):
                await to_thread.run_sync(self._send, exporter, abandon_on_cancel=True)
            exporter.close()

    def _send(self, exporter: Exporter) -> None:
        """Export all that waits, one thread at a time; called in one."""
        with self._sending, suppress(IndexError):
            while True:
                exporter.export(self._queue.popleft())

    def _finish(self, trace: Trace) -> None:
        trace.timeline.ended = trace.timeline.now
        self._finished.append(trace)
        if not trace.exported:
            return
        if len(self._queue) >= QUEUED:
            self._dropped += 1
            log.warning("a trace is not exported: too many wait", dropped=self._dropped)
            return
        self._queue.append(trace)
        self._waiting.set()


def timeline_of(scope: Scope) -> Timeline | None:
    """Where to note what happens to this request; None when it is not traced."""
    found: Timeline | None = scope.get(_KEY)
    return found
