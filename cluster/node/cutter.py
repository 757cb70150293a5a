"""Has a short-lived child process cut one rank's weights out of a model, for another machine.

Cuts are kept while they are read, and for some minutes after.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from cluster.core.cluster import Loading
from cluster.core.errors import LaunchFailed, TandemError
from cluster.core.manifest import Wanted
from cluster.model.config import read_config
from cluster.model.cut import read_cut
from cluster.model.store import check_room
from cluster.model.weights import tensor_bytes
from cluster.node.engine_events import Failed, parse_event
from cluster.node.lines import Lines
from cluster.placement.weights import sum_weights
from cluster.wire.status import by_name

CUT_COMMAND = (sys.executable, "-m", "cluster.engine.cut")

KEEP_SECONDS = 600.0
"""That a cut stays after it was last read."""

MOST_CUTS = 16
"""Kept at the same time; the one that was read last longest ago goes first."""

_TELL_SECONDS = 1.0


class Cutter:
    """Owns a folder of cuts, one at a time being made."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        # Agents of one machine may share a models folder, but not their cuts.
        self._folder = folder / f"{os.getpid()}-{time.time_ns()}"
        self._command = tuple(command)
        self._lock = asyncio.Lock()
        self._used: dict[str, float] = {}
        """When each cut was last read, by `Wanted.name`, on the monotonic clock."""

    def folder(self, wanted: Wanted) -> Path:
        """Where the cut is, or would be."""
        return self._folder / wanted.name

    def used(self, wanted: Wanted) -> None:
        """The cut, if it is one, is being read."""
        if wanted.name in self._used:
            self._used[wanted.name] = time.monotonic()

    async def cut(self, wanted: Wanted, whole: Path) -> AsyncGenerator[Loading, None]:
        """Cut what is wanted out of the folder `whole`; progress. Raises what the child says is
        wrong (CannotShard, ModelUnavailable), or LaunchFailed. Leaving it ends the child."""
        while not await self._locked():
            yield Loading("cutting weights", 0.0)
        try:
            if wanted.name not in self._used:  # by whoever held the lock
                await asyncio.to_thread(self._make_room, wanted, whole)
                async with aclosing(self._run(wanted, whole)) as events:
                    async for loading in events:
                        yield loading
                self._used[wanted.name] = time.monotonic()
        finally:
            self._lock.release()

    async def close(self) -> None:
        """Delete all cuts."""
        self._used.clear()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _run(self, wanted: Wanted, whole: Path) -> AsyncGenerator[Loading, None]:
        assert wanted.cut is not None  # the caller has seen to it
        into = self.folder(wanted)
        orders = {
            "folder": str(whole), "into": str(into), "digest": wanted.digest,
            "plan": asdict(wanted.cut),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=10)
        failed: Failed | None = None
        loading = Loading("cutting weights", 0.0)
        lines = Lines()
        assert process.stdin is not None and process.stdout is not None  # asked for
        reading = asyncio.create_task(process.stdout.read(1 << 16))
        try:
            process.stdin.write(json.dumps(orders).encode() + b"\n")
            while True:
                yield loading
                if not (await asyncio.wait([reading], timeout=_TELL_SECONDS))[0]:
                    continue
                if not (data := reading.result()):
                    break
                for line in lines.push(data):
                    match parse_event(line):
                        case Loading() as loading:
                            pass
                        case Failed() as failed:
                            pass
                        case _:
                            tail.append(line.strip()[:500])
                reading = asyncio.create_task(process.stdout.read(1 << 16))
            if await process.wait() != 0 or await asyncio.to_thread(read_cut, into) is None:
                raise _failure(wanted, failed, tail)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            await asyncio.wait([reading])
            if process.returncode != 0:
                await asyncio.to_thread(shutil.rmtree, into, ignore_errors=True)

    async def _locked(self) -> bool:
        """Take the lock, or return False after a second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELL_SECONDS):
                return await self._lock.acquire()
        return False

    def _make_room(self, wanted: Wanted, whole: Path) -> None:
        """Delete the cuts that nobody has read for long, and those of agents that have died;
        raises ModelUnavailable when one more does not fit."""
        assert wanted.cut is not None  # the caller has seen to it
        now = time.monotonic()
        by_age = sorted(self._used, key=lambda name: self._used[name], reverse=True)
        for place, name in enumerate(by_age):
            if now - self._used[name] > KEEP_SECONDS or place >= MOST_CUTS - 1:
                del self._used[name]
                shutil.rmtree(self._folder / name, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in self._folder.parent.iterdir():
            pid = other.name.partition("-")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(other, ignore_errors=True)
        config, sizes = read_config(whole), tensor_bytes(whole)
        cut = wanted.cut
        held = sum_weights(config, sizes).by_rank(cut.world, cut.kind, cut.layers)
        check_room(self._folder, held[cut.rank])


def _failure(wanted: Wanted, failed: Failed | None, tail: Sequence[str]) -> TandemError:
    if failed is not None and (known := by_name(failed.error, failed.message)) is not None:
        return known
    words = failed.message if failed is not None else " ".join(tail) or "it said nothing"
    return LaunchFailed(f"cutting {wanted.model[:200]} failed: {words}")
