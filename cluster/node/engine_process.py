"""One engine as a child process: started, listened to, and killed for certain.

The engine gets its LaunchSpec as one line of JSON on standard input, which then stays open: its
end tells the engine that the agent is gone. What it says on standard output is in
`engine_events.py`; its standard error is logged, and its end is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import psutil

from cluster.core.cluster import Alive, Exited, LaunchSpec, Loading, Ready
from cluster.core.errors import LaunchFailed
from cluster.node.engine_events import Failed, parse_event
from cluster.node.lines import Lines

ENGINE_COMMAND = (sys.executable, "-m", "cluster.engine")

TERM_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""

_KILL_SECONDS = 10.0
"""After SIGKILL; longer only when the kernel itself is stuck."""

_DRAIN_SECONDS = 1.0
"""For output that a dead engine left in its pipes."""

_TAIL_LINES, _TAIL_WIDTH = 40, 500

Say = Callable[[str], None]
"""Takes one line for people; must neither raise nor block."""


class EngineProcess:
    """A started engine. Its fields are news for one reader, who waits with `wait`."""

    def __init__(self, process: asyncio.subprocess.Process, spec: LaunchSpec, say: Say) -> None:
        self.pid = process.pid
        self.spec = spec
        self.loading: Loading | None = None
        self.ready: Ready | None = None
        self.failed: Failed | None = None
        self.exited: Exited | None = None
        """Set once the process is reaped and all it said has been read."""
        self.heard = time.monotonic()
        """When it last said something that makes sense."""
        self.silent = 0.0
        """Longest time between two such, in seconds."""
        self._process = process
        self._say = say
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._news = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(), name=f"watch engine {self.pid}")
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        spec: LaunchSpec,
        host: str,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        say: Say,
        identity: str = "",
    ) -> Self:
        """Start an engine that will bind its endpoint to `host`, with the identity in the file
        of that path if one is given; raises LaunchFailed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchFailed(f"can't start {command[0]}: {error.strerror}") from error
        orders = json.dumps({**dataclasses.asdict(spec), "host": host, "identity": identity})
        if process.stdin is not None:
            process.stdin.write(orders.encode() + b"\n")
        return cls(process, spec, say)

    async def wait(self, seconds: float) -> None:
        """Return at the next news, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._news.wait()
        self._news.clear()

    def alive(self) -> Alive | None:
        """What the process uses now; None when it is gone."""
        try:
            process = psutil.Process(self.pid)
            times = process.cpu_times()
            return Alive(process.memory_info().rss, times.user + times.system)
        except psutil.Error:
            return None

    async def stop(self, *, now: bool = False) -> None:
        """Kill the engine and return when it is reaped; goes on when the caller is cancelled.

        The end of its input and SIGTERM first, SIGKILL to its whole session after 2 s, or `now`.
        """
        if now:
            self._signal(signal.SIGKILL)
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop engine {self.pid}")
        await asyncio.shield(self._stopping)

    async def gone(self, seconds: float) -> bool:
        """Wait until the engine is reaped, at most `seconds`; True when it is."""
        await asyncio.wait([self._watching], timeout=seconds)
        return self._watching.done()

    async def _stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._signal(signal.SIGTERM)
        if await self.gone(TERM_SECONDS):
            return
        self._signal(signal.SIGKILL)
        if not await self.gone(_KILL_SECONDS):
            self._say(f"engine {self.pid} does not die of SIGKILL: its kernel is stuck")

    def _signal(self, number: signal.Signals) -> None:
        """To the engine's whole session, while the engine itself is not reaped."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def _watch(self) -> None:
        """Read all the engine says until it is dead; owns the readers."""
        process = self._process
        code = -signal.SIGKILL
        try:
            async with asyncio.TaskGroup() as group:
                readers = [
                    group.create_task(_read(process.stdout, self._hear)),
                    group.create_task(_read(process.stderr, self._log)),
                ]
                code = await process.wait()
                # A grandchild may hold the pipes open for longer.
                _, open_still = await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
                for reader in open_still:
                    reader.cancel()
        finally:
            self._signal(signal.SIGKILL)  # where watching itself was cut short
            words = self.failed.message if self.failed is not None else "\n".join(self._tail)
            self.exited = Exited(code, words)
            self._news.set()

    def _hear(self, line: str) -> None:
        match parse_event(line):
            case Loading() as loading:
                self.loading = loading
            case Ready() as ready:
                self.ready = ready
            case Failed() as failed:
                self.failed = failed
            case None:
                self._log(line)
                return
        now = time.monotonic()
        self.silent = max(self.silent, now - self.heard)
        self.heard = now
        self._news.set()

    def _log(self, line: str) -> None:
        if line.strip():
            self._tail.append(line[:_TAIL_WIDTH])
            self._say(f"engine {self.spec.plan.rank}: {line[:_TAIL_WIDTH]}")


async def _read(stream: asyncio.StreamReader | None, each: Callable[[str], None]) -> None:
    lines = Lines()
    while stream is not None and (data := await stream.read(1 << 16)):
        for line in lines.push(data):
            each(line)
    for line in lines.finish():
        each(line)
