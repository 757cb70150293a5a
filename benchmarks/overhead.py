"""What a token costs the coordinator: planning, gRPC, text and HTTP, without any computing.

    .venv/bin/python -m benchmarks.overhead [--streams 32] [--ranks 2] [--tokens 400]

A coordinator with its HTTP server, in a process of its own on one core, drives engines that
answer every step at once with made-up ids; clients and engines have the other core. Prints the
CPU time that the process takes for each token between the first and the last, as a Markdown row.
Every token is a step of its own for its stream: the engines say that an iteration took 30 ms, so
no step has more than one.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any

import uvicorn

from api.app import create_app
from api.server import server_config
from benchmarks.pinning import ALL_CORES, on_cores
from benchmarks.streams import Stream, pump
from cluster import demo
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.ranks import Ranks
from cluster.core.clock import SystemClock
from cluster.core.cluster import EngineFacts, Hello, ShardPlan
from cluster.core.config import Limits, Pacing
from cluster.core.ids import Epoch, Rank
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.core.versions import versions
from cluster.core.view import ServedModel
from cluster.text.tokenizer import Tokenizer
from cluster.wire.engine_client import connect
from cluster.wire.engine_server import EngineServer

SECRET = "an epoch's secret"
FIRST_ID = 300
"""An id that is a word of the demo's tokenizer, and some that follow."""


class FreeEngine:
    """Answers each step at once."""

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._answers: asyncio.Queue[StepResult] = asyncio.Queue()

    def hello(self) -> Hello:
        return hello(self._plan, EngineFacts(True, 1, 2, 0))

    def begin(self) -> Sequence[Shelved]:
        return ()

    def order(self, order: ShelfOrder) -> None:
        pass

    def submit(self, step: Step) -> None:
        rows, seq = len(step.decode) * step.iterations, int(step.seq)
        result = StepResult(
            step.epoch,
            step.seq,
            digest=0,
            decoded=tuple(FIRST_ID + (seq + row) % 200 for row in range(rows)),
            prefilled=tuple(FIRST_ID for chunk in step.chunks if chunk.sample),
            decode_seconds=0.03 * step.iterations,
            chunk_seconds=tuple(0.0001 for _ in step.chunks),
        )
        self._answers.put_nowait(result)

    async def next_answer(self) -> StepResult | ShelfNews:
        return await self._answers.get()


def plans(ranks: int) -> list[ShardPlan]:
    return [ShardPlan(ranks, Rank(rank), "tensor", "ring") for rank in range(ranks)]


def hello(plan: ShardPlan, facts: EngineFacts | None = None) -> Hello:
    return Hello(Epoch(3), 1, versions(), "digest", plan, facts)


def engines(ranks: int, pipe: Connection) -> None:
    """The process of the engines."""

    async def run() -> None:
        servers = [EngineServer(FreeEngine(plan), SECRET) for plan in plans(ranks)]
        for server in servers:
            await server.start("127.0.0.1")
        pipe.send([server.endpoint for server in servers])
        await asyncio.to_thread(pipe.recv)
        for server in servers:
            await server.stop()

    with on_cores(frozenset({ALL_CORES[-1]})):
        asyncio.run(run())


def server(endpoints: list[str], streams: int, pipe: Connection) -> None:
    """The process that is measured. Answers each message with the CPU seconds it has taken."""
    tokenizer = Tokenizer.load(demo.folder())
    coordinator = Coordinator(
        ServedModel("free", 1 << 16, 0, demo=False),
        tokenizer,
        limits=Limits(sequences=streams, parked=0, draft=0),
        pacing=Pacing(),
        clock=SystemClock(),
    )

    async def run() -> None:
        http = uvicorn.Server(server_config(create_app(coordinator)))
        listening = socket.create_server(("127.0.0.1", 0), backlog=streams)
        async with AsyncExitStack() as stack:
            clients = []
            for endpoint, plan in zip(endpoints, plans(len(endpoints)), strict=True):
                opened = connect(endpoint, SECRET, hello(plan))
                clients.append(await stack.enter_async_context(opened))
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(
                    drive(coordinator, Epoch(3), Ranks(clients), trimmable=True)
                )
                serving = tasks.create_task(http.serve(sockets=[listening]))
                pipe.send(listening.getsockname()[1])
                while await asyncio.to_thread(pipe.recv):
                    pipe.send(time.process_time())
                http.should_exit = True
                await serving
                driving.cancel()

    with on_cores(frozenset({ALL_CORES[0]})):
        asyncio.run(run())


def measure(port: int, pipe: Connection, streams: int, tokens: int) -> tuple[float, float, float]:
    """(CPU seconds a token, tokens a second, tokens an event) of so many streams, begun
    together."""
    # The texts of ids run together; no drafts, and nobody ends early.
    opened = [Stream(port, f"stream {i}", tokens, ignore_eos=True) for i in range(streams)]
    try:
        pump(opened, lambda: all(stream.times for stream in opened), 60)
        pipe.send(True)
        cpu, begun = float(pipe.recv()), time.monotonic()
        already = sum(len(stream.times) for stream in opened)
        pump(opened, lambda: all(stream.over for stream in opened), 120)
        pipe.send(True)
        cpu, seconds = float(pipe.recv()) - cpu, time.monotonic() - begun
    finally:
        for stream in opened:
            stream.close()
    done = streams * tokens - already
    events = sum(len(stream.times) for stream in opened) - already
    return cpu / done, done / seconds, done / events


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    start = multiprocessing.get_context("spawn")
    theirs, ours = start.Pipe(), start.Pipe()
    processes: list[Any] = [start.Process(target=engines, args=(asked.ranks, theirs[1]))]
    processes[0].start()
    endpoints = theirs[0].recv()
    processes.append(start.Process(target=server, args=(endpoints, asked.streams, ours[1])))
    processes[1].start()
    port = ours[0].recv()
    with on_cores(frozenset({ALL_CORES[-1]})):
        measure(port, ours[0], asked.streams, 50)
        rounds = [measure(port, ours[0], asked.streams, asked.tokens) for _ in range(asked.rounds)]
    ours[0].send(False)
    theirs[0].send(False)
    for process in processes:
        process.join(20)
        process.kill()
    print("| streams | ranks | CPU time a token, us (rounds) | tokens a second | tokens an event |")
    print("|---|---|---|---|---|")
    costs = sorted(cost * 1e6 for cost, _, _ in rounds)
    middle = costs[len(costs) // 2]
    each = ", ".join(f"{cost:.0f}" for cost in costs)
    speed = sorted(speed for _, speed, _ in rounds)[len(rounds) // 2]
    joined = max(joined for _, _, joined in rounds)
    print(
        f"| {asked.streams} | {asked.ranks} | {middle:.0f} ({each}) | {speed:.0f} | {joined:.2f} |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
