"""A whole run: levels one after the other, ended by Ctrl-C with what there is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cluster.bench.ask import Asker, Body
from cluster.bench.drive import Bounds, LevelRun, Live
from cluster.bench.http import Connections, Target
from cluster.bench.load import Load
from cluster.bench.prompts import Prompts
from cluster.bench.result import Level
from cluster.bench.sessions import Workload


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run needs to know."""

    target: Target
    body: Body
    prompts: Prompts
    work: Workload
    loads: Sequence[Load]
    bounds: Bounds
    warmup: int
    """Requests in front of the first level that do not count."""
    timeout: float
    """Seconds that one request may take."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    levels: list[Level]
    interrupted: bool = False


def run(plan: Plan, watch: Callable[[Live], None]) -> Outcome:
    """Run it. `watch` is called a few times a second with the level under way. After Ctrl-C the
    requests under way are hung up on, and the outcome is what there is; a second Ctrl-C raises
    KeyboardInterrupt."""
    return asyncio.run(_run(plan, watch))


async def _run(plan: Plan, watch: Callable[[Live], None]) -> Outcome:
    connections = Connections(plan.target)
    asker = Asker(connections, plan.body, plan.timeout)
    outcome = Outcome([])
    try:
        with _interrupts(asyncio.current_task()):
            await _levels(plan, asker, watch, outcome)
    except asyncio.CancelledError:
        outcome.interrupted = True
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
    finally:
        connections.close()
    return outcome


async def _levels(
    plan: Plan, asker: Asker, watch: Callable[[Live], None], outcome: Outcome
) -> None:
    if plan.warmup:
        bounds = Bounds(plan.bounds.seconds, plan.warmup)
        warm = LevelRun(-1, plan.loads[0], plan.work, plan.prompts, bounds)
        await warm.run(asker, watch)
    for number, load in enumerate(plan.loads):
        level = LevelRun(number, load, plan.work, plan.prompts, plan.bounds)
        try:
            await level.run(asker, watch)
        finally:
            if level.live.requests:
                outcome.levels.append(level.result())
        if level.given_up:
            return


@contextlib.contextmanager
def _interrupts(task: asyncio.Task[Outcome] | None) -> Iterator[None]:
    """Ctrl-C cancels `task`, once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
