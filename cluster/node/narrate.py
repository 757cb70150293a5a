"""An engine's life, told as it happens."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator

from cluster.core.cluster import EngineEvent, Exited, Loading, Started
from cluster.core.errors import LaunchFailed, TandemError
from cluster.node.engine_process import EngineProcess
from cluster.wire.status import by_name

ALIVE_SECONDS = 1.0
"""Between two signs of life."""

DOWNLOAD_SECONDS = 3600.0
"""The Hub's library tells nothing of its progress, so a download may be silent this long."""


async def narrate(engine: EngineProcess, silence: float) -> AsyncGenerator[EngineEvent, None]:
    """Started, Loading as it goes on, Ready, Alive every second throughout, Exited last.

    Raises what the engine itself said when it ends before it is ready (CannotShard, ...), else
    LaunchFailed; also LaunchFailed when it says nothing for `silence` seconds before then, or
    for an hour while it downloads.
    News that a slow reader misses is left out, never queued.
    """
    yield Started(engine.pid)
    loading: Loading | None = None
    ready = False
    alive_at = time.monotonic() + ALIVE_SECONDS
    while True:
        exited = engine.exited
        if not ready and engine.loading is not None and engine.loading is not loading:
            loading = engine.loading
            yield loading
        if not ready and engine.ready is not None:
            ready = True
            yield engine.ready
        if exited is not None:
            if not ready:
                raise _failure(engine, exited)
            yield exited
            return
        now = time.monotonic()
        limit = DOWNLOAD_SECONDS if loading and loading.what == "download" else silence
        if not ready and now - engine.heard >= limit:
            raise LaunchFailed(
                f"the engine of rank {engine.spec.plan.rank} was silent for {limit:g} s "
                f"{'while loading' if loading else 'after its start'}"
            )
        if now >= alive_at:
            alive_at = now + ALIVE_SECONDS
            if (alive := engine.alive()) is not None:
                yield alive
        until = alive_at if ready else min(alive_at, engine.heard + limit)
        await engine.wait(until - time.monotonic())


def _failure(engine: EngineProcess, exited: Exited) -> TandemError:
    """Why an engine was never ready: its own error where it gave one."""
    failed = engine.failed
    if failed is not None:
        known = by_name(failed.error, failed.message)
        return known or LaunchFailed(
            f"the engine of rank {engine.spec.plan.rank} failed: {failed.error}: {failed.message}"
        )
    lines = [line for line in exited.last_words.splitlines() if line.strip()]
    return LaunchFailed(
        f"the engine of rank {engine.spec.plan.rank} {_ending(exited.code)} before it was ready: "
        f"{lines[-1].strip() if lines else 'it said nothing'}"
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
