"""`python -m cluster.node` as a process: it ends with its parent, and its engines with it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from cluster.core.cluster import Exited, Ready, Started
from cluster.core.errors import NodeUnreachable
from cluster.wire.node_client import NodeClient
from tests.conftest import wait_for
from tests.integration.test_node_agent import COMMAND, spec, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
AGENT = (sys.executable, "-m", "cluster.node")
ENGINE = ("--engine", *COMMAND[:1], *COMMAND[3:])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@asynccontextmanager
async def agent_process(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running agent and its address; killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        *AGENT, *options, *ENGINE, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        event = json.loads(await process.stdout.readline())
        assert event["event"] == "listening"
        yield process, event["address"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def launch(client: NodeClient, mode: str = "ready", rank: int = 0) -> int:
    """Start an engine, keep its call open, return its process id."""
    events = client.launch(spec(mode, rank=rank))
    found = await until(events, Ready)
    client.__dict__.setdefault("kept", []).append(events)
    return int(found[0].pid)  # type: ignore[union-attr]


def dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("pipe", [True, False])
async def test_sigterm(pipe: bool) -> None:
    options = ("--parent-pipe",) if pipe else ()
    async with agent_process(*options) as (process, address), NodeClient(address) as client:
        engines = [await launch(client, "ignores SIGTERM", rank) for rank in range(2)]
        began = time.monotonic()
        process.terminate()
        assert await process.wait() == 0
        assert time.monotonic() - began < 4
        assert all(map(dead, engines))


async def test_the_parent_goes() -> None:
    async with (
        agent_process("--parent-pipe", "--orphan-grace", "0.5") as (process, address),
        NodeClient(address) as client,
    ):
        engine = await launch(client)
        assert process.stdin is not None
        began = time.monotonic()
        process.stdin.close()
        assert await process.wait() == 0
        assert 0.4 < time.monotonic() - began < 4
        assert dead(engine)


async def test_sigterm_during_the_grace() -> None:
    async with (
        agent_process("--parent-pipe", "--orphan-grace", "60") as (process, address),
        NodeClient(address) as client,
    ):
        engine = await launch(client)
        assert process.stdin is not None
        process.stdin.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.5)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 4) == 0
        assert dead(engine)


async def test_ctrl_c_is_the_parents() -> None:
    async with agent_process("--parent-pipe") as (process, address), NodeClient(address) as client:
        process.send_signal(signal.SIGINT)
        await client.describe()
    async with agent_process() as (process, _):
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 4) == 0


async def test_a_coordinator_killed_with_sigkill(tmp_path: Path) -> None:
    """A parent of its own that holds the pipes and dies without a word."""
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE,"
        " stderr=subprocess.PIPE)\n"
        "print(p.pid, p.stdout.readline().decode(), flush=True)\n"
        "time.sleep(600)\n"
    )
    options = ("--parent-pipe", "--orphan-grace", "0.5")
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *AGENT, *options, *ENGINE,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None
    pid, line = (await parent.stdout.readline()).decode().split(" ", 1)
    async with NodeClient(json.loads(line)["address"]) as client:
        engines = [await launch(client, "ready", 0), await launch(client, "ignores SIGTERM", 1)]
        parent.kill()
        await parent.wait()
        # Its log is a closed pipe now; it must still kill its engines and go.
        await wait_for(lambda: dead(int(pid)), 5)
        assert all(map(dead, engines))


async def test_an_agent_killed_with_sigkill_ends_its_calls() -> None:
    async with agent_process() as (process, address), NodeClient(address) as client:
        events = client.launch(spec("ready"))
        started = (await until(events, Ready))[0]
        assert isinstance(started, Started)
        process.kill()
        with pytest.raises(NodeUnreachable):
            await until(events, Exited)
        await process.wait()
        await wait_for(lambda: dead(started.pid))  # it saw the end of its input


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--host", "192.0.2.200"), "BadConfiguration"),
        (("--host", "127.0.0.1", "--port", "TAKEN"), "AddressInUse"),
    ],
)
async def test_an_agent_that_can_not_start(options: tuple[str, ...], error: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = str(held.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *AGENT, *(taken if o == "TAKEN" else o for o in options), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 1
    event = json.loads(out)
    assert (event["event"], event["error"]) == ("failed", error)
    assert b"Traceback" not in err
