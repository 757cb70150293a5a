"""`python -m cluster.node`: the agent as a process of its own, as `tandem serve` starts it.

Prints one line of JSON: {"event": "listening", "address": "127.0.0.1:4711"}, or
{"event": "failed", "error": "AddressInUse", "message": "..."} and exits with 1. Its log goes
to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from cluster.core.errors import TandemError
from cluster.node.agent import Agent
from cluster.node.engine_process import ENGINE_COMMAND
from cluster.trust.identity import IdentityFile
from cluster.wire.node_server import NodeServer

LOOK_SECONDS = 0.25
"""Between two looks whether a coordinator is there, once the parent is gone."""


def main() -> None:
    """Run until SIGTERM, or until the parent is gone and the orphan grace is over."""
    arguments = _parser().parse_args()
    try:
        asyncio.run(_run(arguments))
    except TandemError as error:
        _print({"event": "failed", "error": type(error).__name__, "message": str(error)})
        sys.exit(1)


def log(line: str) -> None:
    """One line to standard error, which may be closed: its reader may be dead."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.node", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address of this machine")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--identity", type=Path, help="identity file, needed beyond loopback only")
    parser.add_argument(
        "--orphan-grace", type=float, default=10.0,
        help="seconds that engines live on after their coordinator is gone",
    )  # fmt: skip
    parser.add_argument(
        "--parent-pipe", action="store_true",
        help="standard input is a pipe from the parent; its end means that the parent is gone",
    )  # fmt: skip
    parser.add_argument("--engine", nargs="+", default=ENGINE_COMMAND, help=argparse.SUPPRESS)
    return parser


async def _run(arguments: argparse.Namespace) -> None:
    host = arguments.host
    identity = None if arguments.identity is None else IdentityFile(arguments.identity)
    over = asyncio.Event()
    _catch_signals(over, interrupt=not arguments.parent_pipe)
    agent = await Agent.on_this_machine(
        host, port=arguments.port, command=arguments.engine,
        orphan_grace=arguments.orphan_grace, say=log, identity=identity,
    )  # fmt: skip
    server = await NodeServer.start(host, arguments.port, identity, agent)
    agent.address = server.address
    try:
        _print({"event": "listening", "address": server.address})
        if arguments.parent_pipe:
            await _parent_or(over)
            await _left_alone(over, server, arguments.orphan_grace)
        else:
            await over.wait()
    finally:
        await agent.close()
        await server.stop()


def _catch_signals(over: asyncio.Event, *, interrupt: bool) -> None:
    """SIGTERM ends it. Ctrl-C reaches the whole terminal, so it is left to the parent."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_signal_handler(signal.SIGINT, over.set if interrupt else lambda: None)


async def _parent_or(over: asyncio.Event) -> None:
    """Return when standard input ends or `over` is set."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(over.wait())
            ended = group.create_task(_end_of(reader))
            await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            ended.cancel()
    finally:
        transport.close()


async def _left_alone(over: asyncio.Event, server: NodeServer, grace: float) -> None:
    """Return when `over` is set, or no coordinator has been there for `grace` seconds: another
    one than the parent may come."""
    seen = time.monotonic()
    while not over.is_set() and time.monotonic() - seen < grace:
        if server.leased:
            seen = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), LOOK_SECONDS)


async def _end_of(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


def _print(event: dict[str, str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
    # Standard streams may be closed pipes: nothing is left to flush to them.
    os._exit(0)
