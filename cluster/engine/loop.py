"""The step loop: steps in, results out, one engine thread for all of MLX.

Two launches are outstanding at most: while one computes, the next is built, across the ends of
steps too. A second thread waits for the device, so that the engine thread sleeps on its inbox
and on nothing else. Nothing here looks at the time, except to report how long launches took.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import mlx.core as mx

from cluster.core.errors import StepRefused
from cluster.core.ids import Epoch, Seq
from cluster.core.plan import Step, StepResult
from cluster.engine.executor import Executor, Launch

OUTSTANDING = 2
"""Launches on the device at the same time."""
PENDING = 4
"""Steps that were taken and not answered yet; one more is refused."""


@dataclass(slots=True)
class _Work:
    """A step under way."""

    step: Step
    launches: Iterator[Launch]
    launched: bool = False
    """Every launch of the step has been handed to MLX."""
    waiting: int = 0
    """Launches that are not done yet."""
    digest: int = 0
    decoded: list[int] = field(default_factory=list)
    prefilled: list[int] = field(default_factory=list)
    decode_seconds: float = 0.0
    chunk_seconds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Flight:
    """A launch on the device, and what came of it."""

    work: _Work
    launch: Launch
    started: float
    ids: list[int] = field(default_factory=list)
    ended: float = 0.0
    error: Exception | None = None


class StepLoop:
    """Executes the steps of one epoch on one rank.

    `submit` and `close` may be called from any thread; `run` is the engine thread's body.
    `on_result` is called on the engine thread, once per step, in order.
    """

    def __init__(
        self,
        executor: Executor,
        epoch: Epoch,
        on_result: Callable[[StepResult], None],
        *,
        rank: int = 0,
    ) -> None:
        self._executor = executor
        self._epoch = epoch
        self._on_result = on_result
        self._rank = rank
        self._inbox: queue.SimpleQueue[Step | _Flight | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._taken = 0
        self._answered = 0
        self._works: deque[_Work] = deque()
        self._outstanding = 0
        self._last_done = 0.0

    @property
    def last_seq(self) -> Seq:
        """The last step answered; 0 before the first."""
        return Seq(self._answered)

    def submit(self, step: Step) -> None:
        """Take `step`; never blocks.

        Raises StepRefused when its epoch or seq is not the one expected, or when PENDING
        steps are under way already.
        """
        with self._lock:
            if step.epoch != self._epoch:
                raise StepRefused(f"step {step.seq} of epoch {step.epoch} in epoch {self._epoch}")
            if step.seq != self._taken + 1:
                raise StepRefused(f"step {step.seq} after step {self._taken}")
            if self._taken - self._answered >= PENDING:
                raise StepRefused(f"step {step.seq} while {PENDING} steps are not done")
            self._taken += 1
            self._inbox.put(step)

    def close(self) -> None:
        """Make `run` return once it has read all that was put in before."""
        self._inbox.put(None)

    def run(self) -> None:
        """Work until `close`. A failure of a launch, or a refused step, ends it by raising;
        no launch, and so no collective, follows it."""
        waiter = threading.Thread(target=self._wait, name="waiter", daemon=True)
        waiter.start()
        try:
            while (event := self._inbox.get()) is not None:
                if isinstance(event, Step):
                    digest = zlib.crc32(_pack(event.seq))
                    self._works.append(_Work(event, self._executor.run(event), digest=digest))
                else:
                    self._landed(event)
                self._advance()
        finally:
            self._outbox.put(None)

    def _advance(self) -> None:
        """Launch what may be launched, and answer what is complete."""
        for work in self._works:
            while not work.launched and self._outstanding < OUTSTANDING:
                self._launch(work)
            if not work.launched:
                break
        while self._works and self._works[0].launched and not self._works[0].waiting:
            self._answer(self._works.popleft())

    def _launch(self, work: _Work) -> None:
        launch = next(work.launches, None)
        if launch is None:
            work.launched = True
            return
        work.waiting += 1
        self._outstanding += 1
        self._outbox.put(_Flight(work, launch, time.monotonic()))

    def _wait(self) -> None:
        """The waiter thread: the only one that blocks on the device; launches nothing."""
        while (flight := self._outbox.get()) is not None:
            try:
                flight.ids = flight.launch.done.tolist()  # type: ignore[assignment]
            except Exception as error:  # noqa: BLE001 - handed to the engine thread
                flight.error = error
            flight.ended = time.monotonic()
            self._inbox.put(flight)

    def _landed(self, flight: _Flight) -> None:
        if flight.error is not None:
            raise flight.error
        work, launch = flight.work, flight.launch
        self._outstanding -= 1
        work.waiting -= 1
        # The device was busy with the launch before until that one was done.
        seconds = flight.ended - max(flight.started, self._last_done)
        self._last_done = flight.ended
        if launch.chunk:
            work.chunk_seconds.append(seconds)
            work.prefilled.extend(flight.ids)
        else:
            work.decode_seconds += seconds
            work.decoded.extend(flight.ids)
        work.digest = zlib.crc32(_pack(*launch.rows, *launch.lengths, *flight.ids), work.digest)

    def _answer(self, work: _Work) -> None:
        first = self._rank == 0
        result = StepResult(
            epoch=self._epoch,
            seq=work.step.seq,
            digest=work.digest,
            decoded=tuple(work.decoded) if first else (),
            prefilled=tuple(work.prefilled) if first else (),
            decode_seconds=work.decode_seconds,
            chunk_seconds=tuple(work.chunk_seconds),
            memory_bytes=mx.get_active_memory() + mx.get_cache_memory(),
        )
        with self._lock:
            self._answered += 1
        self._on_result(result)


def _pack(*values: int) -> bytes:
    """Values as 64-bit integers, in this machine's byte order (all of ours are little-endian)."""
    return array("q", values).tobytes()
