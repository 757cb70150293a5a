"""The step loop: steps in, results out.

The engine thread builds launches and hands them to MLX, at most two ahead of what is done,
across the ends of steps too; where the next one depends on ids, it waits for them. The waiter
thread waits for the device and answers; were the engine thread to answer, a result would wait
for the next launch to be built, which on a CPU takes nearly as long as computing it. Neither
looks at the time, except to report it.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from cluster.core.engine_protocol import StepWindow
from cluster.core.ids import Epoch
from cluster.core.plan import Likelihood, Step, StepResult, StepTimes
from cluster.engine import bandwidth
from cluster.engine.executor import Executor
from cluster.engine.launch import Launch
from cluster.engine.shelf import Shelf

OUTSTANDING = 2
"""Launches on the device at the same time."""
_END = object()
"""The step has no more launches."""


@dataclass(frozen=True, slots=True)
class _Reset:
    """A session begins: nothing of the steps before is kept."""

    shelf: Shelf | None


@dataclass(slots=True)
class _Work:
    """A step under way, and what has come of it."""

    step: Step
    received: float
    digest: int
    decoded: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    prefilled: list[int] = field(default_factory=list)
    decoded_likelihoods: list[Likelihood] = field(default_factory=list)
    prefilled_likelihoods: list[Likelihood] = field(default_factory=list)
    decode_seconds: float = 0.0
    chunk_seconds: list[float] = field(default_factory=list)
    decode_times: tuple[float, float] | None = None
    chunk_times: list[tuple[float, float]] = field(default_factory=list)
    read_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launch on the device."""

    work: _Work
    launch: Launch
    started: float


class StepLoop:
    """Executes the steps of one epoch on one rank.

    `submit`, `reset` and `close` may be called from any thread; `run` is the engine thread's
    body. `on_result` is called on the waiter thread, once per step, in order; it must not block.
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
        self._window = StepWindow(epoch)
        self._on_result = on_result
        self._rank = rank
        self._inbox: queue.SimpleQueue[_Work | _Reset | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[_Flight | _Work | None] = queue.SimpleQueue()
        """What the waiter waits for: launches, and after its launches each step."""
        self._permits = threading.Semaphore(OUTSTANDING)
        """One for each launch that may be on the device."""
        self._landed: queue.SimpleQueue[tuple[Launch, list[int]] | None] = queue.SimpleQueue()
        """Launches that are done, with their ids, not yet noted; None when there is a failure."""
        self._launched = 0
        self._noted = 0
        self._failure: Exception | None = None
        """Why the waiter has stopped; set before it lets go of the engine thread."""
        self._lock = threading.Lock()
        """Held for the window, the inbox's order and the call of `on_result`."""
        self._last_done = 0.0

    @property
    def taken(self) -> int:
        """Steps taken, in all sessions."""
        return self._window.taken

    @property
    def answered(self) -> int:
        """Steps done, in all sessions."""
        return self._window.answered

    def submit(self, step: Step) -> None:
        """Take `step`; never blocks.

        Raises StepRefused when its epoch or seq is not the one expected, or when PENDING
        steps are under way already.
        """
        with self._lock:
            self._window.take(step)
            digest = zlib.crc32(_pack(step.seq))
            self._inbox.put(_Work(step, time.monotonic(), digest))

    def reset(self, shelf: Shelf | None) -> None:
        """A session begins; never blocks. The steps taken before are done, then all that they
        have left behind is dropped, before the next step. From the return of this on, none of
        their results is given to `on_result`. The steps that follow save to `shelf`."""
        with self._lock:
            self._window.reset()
            self._inbox.put(_Reset(shelf))

    def close(self) -> None:
        """Make `run` return once it has read all that was put in before."""
        self._inbox.put(None)

    def run(self) -> None:
        """Work until `close`. A failure of a launch, or a refused step, ends it by raising;
        no launch, and so no collective, follows it."""
        waiter = threading.Thread(target=self._wait, name="waiter", daemon=True)
        waiter.start()
        try:
            while (item := self._inbox.get()) is not None:
                if isinstance(item, _Work):
                    self._execute(item)
                else:
                    self._note(0)
                    self._executor.reset(item.shelf)
        finally:
            self._outbox.put(None)
        waiter.join()
        self._check()

    def _execute(self, work: _Work) -> None:
        """Launch all of a step, as launches before it get done."""
        if bandwidth.due(work.step.seq):
            self._note(0)
            work.read_bytes_per_second = self._executor.bandwidth.measure()
        launches = self._executor.run(work.step)
        ahead = 1
        while True:
            self._permits.acquire()
            self._check()
            self._note(ahead)
            started = time.monotonic()
            launch = next(launches, _END)
            if isinstance(launch, Launch):
                self._launched += 1
                self._outbox.put(_Flight(work, launch, started))
            else:
                self._permits.release()
                if launch is _END:
                    break
            ahead = 0 if launch is None else 1
        self._outbox.put(work)

    def _note(self, ahead: int) -> None:
        """Tell the executor of all launches but the latest `ahead`, and wait for them. With 1,
        that is of all but the latest: those are done on every rank when the next one is built;
        whether the latest is, may differ, so it is not looked at unless all ranks wait for it."""
        while self._noted < self._launched - ahead:
            landed = self._landed.get()
            self._check()
            assert landed is not None  # only together with a failure
            self._executor.note(*landed)
            self._noted += 1

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wait(self) -> None:
        """The waiter thread: the only one that blocks on the device; launches nothing."""
        while (item := self._outbox.get()) is not None:
            if isinstance(item, _Work):
                self._answer(item)
                continue
            try:
                ids: list[int] = item.launch.done.tolist()  # type: ignore[assignment]
            except Exception as error:  # noqa: BLE001 - raised on the engine thread
                self._failure = error
                self._landed.put(None)
                self._permits.release()
                self._inbox.put(None)
                return
            self._land(item, ids, time.monotonic())
            self._permits.release()

    def _land(self, flight: _Flight, ids: list[int], now: float) -> None:
        work, launch = flight.work, flight.launch
        # The device was busy with the launch before until that one was done. A launch counts
        # from when it was begun to be built: on a CPU, building waits for most of computing.
        begun = max(flight.started, self._last_done)
        seconds = now - begun
        self._last_done = now
        likelihoods = launch.report.read() if launch.report is not None else ()
        if launch.chunk:
            # Chunks that were one launch are whole prompts: each has its part of the time.
            whole = sum(launch.lengths)
            work.chunk_seconds.extend(seconds * length / whole for length in launch.lengths)
            work.chunk_times.extend([(begun, now)] * len(launch.lengths))
            work.prefilled.extend(ids)
            work.prefilled_likelihoods.extend(likelihoods)
        else:
            work.decode_seconds += seconds
            work.decode_times = (work.decode_times[0] if work.decode_times else begun, now)
            self._decoded(work, launch, ids, likelihoods)
        work.digest = zlib.crc32(_pack(*launch.rows, *launch.lengths, *ids), work.digest)
        self._landed.put((launch, ids))

    @staticmethod
    def _decoded(
        work: _Work, launch: Launch, ids: list[int], likelihoods: tuple[Likelihood, ...]
    ) -> None:
        """An iteration's ids, from the batch's order into the step's."""
        accepted = dict(zip(launch.rows, launch.accept(ids), strict=True))
        for slot in work.step.decode:
            work.decoded.extend(accepted[slot])
            work.counts.append(len(accepted[slot]))
        by_slot = {likelihood.slot: likelihood for likelihood in likelihoods}
        work.decoded_likelihoods.extend(by_slot[s] for s in work.step.decode if s in by_slot)

    def _answer(self, work: _Work) -> None:
        first = self._rank == 0
        uneven = first and any(count != 1 for count in work.counts)
        result = StepResult(
            epoch=self._epoch,
            seq=work.step.seq,
            digest=work.digest,
            decoded=tuple(work.decoded) if first else (),
            prefilled=tuple(work.prefilled) if first else (),
            decode_seconds=work.decode_seconds,
            chunk_seconds=tuple(work.chunk_seconds),
            memory_bytes=mx.get_active_memory() + mx.get_cache_memory(),
            peak_bytes=mx.get_peak_memory(),
            counts=tuple(work.counts) if uneven else (),
            likelihoods=(*work.decoded_likelihoods, *work.prefilled_likelihoods),
            times=_times(work) if work.step.timed else None,
            read_bytes_per_second=work.read_bytes_per_second,
        )
        with self._lock:
            if self._window.answer():
                self._on_result(result)


def _times(work: _Work) -> StepTimes:
    return StepTimes(
        received=work.received,
        answered=time.monotonic(),
        decode=work.decode_times,
        chunks=tuple(work.chunk_times),
    )


def _pack(*values: int) -> bytes:
    """Values as 64-bit integers, in this machine's byte order (all of ours are little-endian)."""
    return array("q", values).tobytes()
