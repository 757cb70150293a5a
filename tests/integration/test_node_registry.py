"""Workers make themselves known, and stay known for as long as both sides live."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.core.cluster import NodeDescription, Versions
from cluster.core.errors import BadConfiguration, NodeUnreachable, VersionMismatch
from cluster.node.worker import local_address, run_worker
from cluster.wire.node_client import NodeClient
from cluster.wire.registry import RegistryServer, StillHere, Welcome, join
from cluster.wire.security import split_address
from tests.conftest import wait_for
from tests.integration.test_node_agent import COMMAND, make_agent

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


class Members:
    """A coordinator's side: who is a member now."""

    cluster = "studio"

    def __init__(self) -> None:
        self.now: list[NodeDescription] = []
        self.joined = 0
        self.turned_away: list[tuple[NodeDescription, str]] = []

    @contextmanager
    def member(self, node: NodeDescription) -> Iterator[None]:
        self.now.append(node)
        self.joined += 1
        try:
            yield
        finally:
            self.now.remove(node)

    def refused(self, node: NodeDescription, error: VersionMismatch) -> None:
        self.turned_away.append((node, str(error)))


@cache
def node(address: str = "127.0.0.2:7000") -> NodeDescription:
    agent = make_agent()
    agent.address = address
    return replace(agent.describe(), incarnation=1)


@pytest.fixture
async def members() -> Members:
    return Members()


@pytest.fixture
async def registry(members: Members) -> AsyncIterator[RegistryServer]:
    server = await RegistryServer.start("127.0.0.1", 0, members)
    yield server
    await server.stop()


@asynccontextmanager
async def worker(lines: list[str], **how: Any) -> AsyncIterator[asyncio.Task[None]]:
    settings = {"join": None, "host": None, "port": 0, "token": None, "orphan_grace": 1.0} | how
    task = asyncio.create_task(run_worker(**settings, say=lines.append, command=COMMAND))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_member_while_the_stream_is_open(
    members: Members, registry: RegistryServer
) -> None:
    async with aclosing(join(registry.address, node())) as events:
        assert await anext(events) == Welcome("studio")
        assert members.now == [node()]
        assert await anext(events) == StillHere()
    await wait_for(lambda: not members.now)


async def test_other_versions_are_refused_by_name(
    members: Members, registry: RegistryServer
) -> None:
    other = dataclasses.replace(node(), versions=Versions(1, "0.1.0", "0.0.1", "0.32.2"))
    with pytest.raises(VersionMismatch, match=r"worker .* mlx .* here, 0\.0\.1 there"):
        await anext(join(registry.address, other))
    assert members.joined == 0
    ((who, why),) = members.turned_away
    assert who == other
    assert "0.0.1 there" in why


async def test_an_agent_that_says_no_address(members: Members, registry: RegistryServer) -> None:
    with pytest.raises(BadConfiguration):
        await anext(join(registry.address, node("")))
    assert members.joined == 0


async def test_the_coordinator_stops(members: Members, registry: RegistryServer) -> None:
    events = join(registry.address, node())
    await anext(events)
    await registry.stop()
    assert {event async for event in events} <= {StillHere()}
    await wait_for(lambda: not members.now)


async def test_a_silent_coordinator() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are made, and never taken up
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NodeUnreachable, match=r"no sign of life for 0\.2 s"):
            await anext(join(address, node(), silence=0.2))


async def test_a_worker_joins_and_leaves(members: Members, registry: RegistryServer) -> None:
    lines: list[str] = []
    async with worker(lines, join=registry.address, host="127.0.0.2"):
        await wait_for(lambda: members.now)
        address = members.now[0].agent_address
        assert address.startswith("127.0.0.2:")
        async with NodeClient(address) as client:
            assert await client.describe() == members.now[0]
        await wait_for(lambda: f"joined studio at {registry.address} as {address}" in lines)
    await wait_for(lambda: not members.now)
    async with NodeClient(address) as client:
        with pytest.raises(NodeUnreachable):
            await client.describe()


async def test_a_worker_joins_again(
    members: Members, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.node.worker.FIRST_RETRY", 0.05)
    lines: list[str] = []
    async with worker(lines, join=registry.address, host="127.0.0.2"):
        await wait_for(lambda: members.now)
        first = members.now[0]
        await registry.stop()
        await wait_for(lambda: any("trying again" in line for line in lines))
        host, port = split_address(registry.address)
        again = await RegistryServer.start(host, port, members)
        await wait_for(lambda: members.joined == 2, 10)
        assert members.now[-1] == first
        await again.stop()


async def test_a_worker_waits_for_its_coordinator(
    members: Members, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.node.worker.FIRST_RETRY", 0.05)
    await registry.stop()
    lines: list[str] = []
    async with worker(lines, join=registry.address):
        await wait_for(lambda: any("can't be reached" in line for line in lines))
        said = len(lines)
        host, port = split_address(registry.address)
        late = await RegistryServer.start(host, port, members)
        await wait_for(lambda: members.joined == 1, 10)
        assert len(lines) <= said + 3  # the same trouble is said once
        await late.stop()


async def test_a_worker_beyond_loopback_needs_a_certificate(tmp_path: Path) -> None:
    for host, words in (("192.0.2.77", "not one of a cluster yet"), ("0.0.0.0", "every address")):
        with pytest.raises(BadConfiguration, match=words):
            await run_worker(None, host, 0, None, 1.0, lambda line: None, trust=tmp_path)


async def test_a_worker_that_waits_to_be_dialled() -> None:
    lines: list[str] = []
    async with worker(lines):
        await wait_for(lambda: any("--nodes" in line for line in lines))
        address = lines[-1].split()[-1]
        async with NodeClient(address) as client:
            assert (await client.describe()).agent_address == address


async def test_the_address_that_routes_to_the_coordinator() -> None:
    assert await local_address("127.0.0.1:9") == "127.0.0.1"
    with pytest.raises(BadConfiguration, match="can't find a way"):
        await local_address("no-such-host.invalid:9")
