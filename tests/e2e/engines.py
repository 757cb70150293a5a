"""Real engine processes, one per rank, driven without agent or coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.core.cluster import Hello, LaunchSpec, ShardPlan
from cluster.core.ids import Epoch, Rank
from cluster.core.plan import Step, StepResult
from cluster.core.versions import versions
from cluster.model.digest import digest
from cluster.wire.engine_client import EngineClient, connect

SECRET = "an epoch's secret"
DEADLINE = 60.0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def specs(
    folder: Path,
    world: int,
    epoch: Epoch,
    *,
    parallel: str = "tensor",
    kv_bits: int = 0,
    kv_dir: str = "",
    draft: Path | None = None,
    layers: tuple[int, ...] = (),
) -> list[LaunchSpec]:
    ring = tuple(f"127.0.0.1:{port}" for port in free_ports(world)) if world > 1 else ()
    kind, backend = (parallel, "ring") if world > 1 else ("single", "none")
    return [
        LaunchSpec(
            epoch=epoch,
            secret=SECRET,
            model=str(folder),
            model_digest=digest(folder),
            plan=ShardPlan(world, Rank(rank), kind, backend, layers),
            ring=ring,
            kv_bits=kv_bits,
            kv_dir=kv_dir,
            draft_model=str(draft or ""),
            draft_digest=digest(draft) if draft else "",
        )
        for rank in range(world)
    ]


class Engine:
    """One process, and the events it has written."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.events: list[dict[str, Any]] = []
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env=environ,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        line = json.dumps({**asdict(spec), "host": "127.0.0.1"}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def next_event(self) -> dict[str, Any]:
        """The next event; blocks, at most for the life of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the engine ended with {self.process.wait(5)}"
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def until(self, kind: str) -> dict[str, Any]:
        """Read events up to one of `kind`, or the failure that came instead."""
        while True:
            event = self.next_event()
            if event["event"] in (kind, "failed"):
                return event

    def end(self) -> None:
        """Kill what is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def hello(spec: LaunchSpec, **changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "epoch": spec.epoch,
        "incarnation": 1,
        "versions": versions(),
        "model_digest": spec.model_digest,
        "plan": spec.plan,
    }
    return Hello(**{**fields, **changes})


@asynccontextmanager
async def launched(
    folder: Path,
    world: int,
    epoch: Epoch,
    *,
    parallel: str = "tensor",
    kv_bits: int = 0,
    kv_dir: str = "",
    draft: Path | None = None,
    layers: tuple[int, ...] = (),
) -> AsyncIterator[list[Engine]]:
    """A group of engines that are ready; all gone at the end."""
    wanted = specs(
        folder,
        world,
        epoch,
        parallel=parallel,
        kv_bits=kv_bits,
        kv_dir=kv_dir,
        draft=draft,
        layers=layers,
    )
    engines = [Engine(spec) for spec in wanted]
    try:
        async with asyncio.timeout(DEADLINE):
            ready = await asyncio.gather(
                *(asyncio.to_thread(engine.until, "ready") for engine in engines)
            )
        assert [event["event"] for event in ready] == ["ready"] * world, ready
        yield engines
    finally:
        for engine in engines:
            engine.end()


@asynccontextmanager
async def connected(engines: Sequence[Engine], **changes: Any) -> AsyncIterator[list[EngineClient]]:
    """A client of each; `changes` are for their hello."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                connect(engine.events[-1]["endpoint"], SECRET, hello(engine.spec, **changes))
            )
            for engine in engines
        ]


async def execute(
    clients: Sequence[EngineClient], steps: Sequence[Step], ahead: int = 2
) -> list[list[StepResult]]:
    """Broadcast `steps`, at most `ahead` unanswered; results by rank."""

    async def one(client: EngineClient) -> list[StepResult]:
        results: list[StepResult] = []
        for sent, step in enumerate(steps):
            while sent - len(results) >= ahead:
                results.append(await client.next_result())
            await client.send(step)
        while len(results) < len(steps):
            results.append(await client.next_result())
        return results

    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*map(one, clients))
