"""The Node service over loopback gRPC: calls, errors, and peers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace

import psutil
import pytest

from cluster.core.cluster import Alive, Exited, Ready, Started
from cluster.core.errors import (
    AddressInUse,
    BadConfiguration,
    CannotShard,
    LaunchFailed,
    NodeUnreachable,
    NotAuthorized,
    NotFound,
    ProtocolError,
)
from cluster.core.ids import Rank
from cluster.node.agent import Agent
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from cluster.wire.security import split_address
from tests.conftest import wait_for
from tests.integration.test_node_agent import make_agent, spec, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = make_agent()
    yield agent
    await agent.close()


@pytest.fixture
async def server(agent: Agent) -> AsyncIterator[NodeServer]:
    server = await NodeServer.start("127.0.0.2", 0, None, agent)
    agent.address = server.address
    yield server
    await server.stop()


@pytest.fixture
async def client(server: NodeServer) -> AsyncIterator[NodeClient]:
    async with NodeClient(server.address) as client:
        yield client


async def test_describe(client: NodeClient, agent: Agent) -> None:
    node = await client.describe()
    assert node == agent.describe()
    assert node.agent_address == client.address
    assert client.address.startswith("127.0.0.2:")


async def test_ports(client: NodeClient) -> None:
    host, ports = await client.reserve_ports(3)
    assert host == "127.0.0.1"
    assert len(set(ports)) == 3
    assert len((await client.reserve_ports(1_000_000))[1]) == 64


async def test_an_engine_from_start_to_stop(client: NodeClient, agent: Agent) -> None:
    async with aclosing(client.launch(spec("ready"))) as events:
        found = await until(events, Ready)
        assert isinstance(found[0], Started)
        await until(events, Alive)
        assert await client.stop("secret 1", 1) == 1
        await until(events, Exited)
        assert [event async for event in events] == []
    assert agent.engines == 0


async def test_engines_are_known_by_their_secret(client: NodeClient, agent: Agent) -> None:
    async with aclosing(client.launch(spec("ready"))) as events:
        await until(events, Ready)
        async with aclosing(client.attach("secret 1", Rank(0), 2)) as taken:
            await until(taken, Ready)
        with pytest.raises(NotFound, match="no engine of rank 0"):
            await anext(client.attach("another", Rank(0), 2))
        assert await client.stop("another", 2) == 0
        with pytest.raises(NotAuthorized, match="coordinator 1 was replaced by 2"):
            await anext(client.attach("secret 1", Rank(0), 1))
        with pytest.raises(NotAuthorized, match="coordinator 1 was replaced by 2"):
            await client.stop("secret 1", 1)
    await wait_for(lambda: agent.orphans())
    assert await client.orphans() == (replace(spec("ready"), incarnation=2),)
    assert await client.stop("secret 1", 2) == 1


async def test_a_launch_without_a_secret(client: NodeClient) -> None:
    with pytest.raises(ProtocolError, match="without a secret"):
        await until(client.launch(replace(spec("ready"), secret="")), Ready)


async def test_the_engines_own_error_arrives_as_itself(client: NodeClient) -> None:
    with pytest.raises(CannotShard, match=r"^heads is 3, which 2 does not divide$"):
        await until(client.launch(spec("fails")), Ready)
    with pytest.raises(LaunchFailed, match="ImportError: no mlx"):
        await until(client.launch(spec("dies early")), Ready)


async def test_a_plan_that_contradicts_itself(client: NodeClient) -> None:
    with pytest.raises(ProtocolError, match="rank 8 of a world of 8"):
        await until(client.launch(spec("ready", rank=8)), Ready)


async def test_closing_the_iterator_lets_go(server: NodeServer, agent: Agent) -> None:
    agent._orphan_grace = 0.2
    async with NodeClient(server.address) as client:
        async with aclosing(client.launch(spec("ready"))) as events:
            await until(events, Ready)
        await wait_for(lambda: agent.engines == 0)


@pytest.mark.parametrize("mode", ["ready", "silent"])
async def test_a_coordinator_that_disconnects_lets_go(
    server: NodeServer, agent: Agent, mode: str
) -> None:
    agent._orphan_grace = 0.2
    client = NodeClient(server.address)
    events = client.launch(spec(mode))
    started = await anext(events)
    assert isinstance(started, Started)
    await client.close()
    await client.close()
    with pytest.raises(NodeUnreachable, match="was closed here"):
        await until(events, Exited)
    await wait_for(lambda: agent.engines == 0)
    assert not psutil.pid_exists(started.pid)


async def test_a_cancelled_reader_lets_go(client: NodeClient, agent: Agent) -> None:
    agent._orphan_grace = 0.0
    task = asyncio.create_task(until(client.launch(spec("ready")), Exited))
    await wait_for(lambda: agent.engines == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for(lambda: agent.engines == 0)


async def test_an_agent_that_goes(client: NodeClient, server: NodeServer, agent: Agent) -> None:
    events = client.launch(spec("ready"))
    await until(events, Ready)
    await server.stop()
    with pytest.raises(NodeUnreachable):
        await until(events, Exited)


async def test_an_agent_that_falls_silent(agent: Agent, server: NodeServer) -> None:
    async with NodeClient(server.address, silence=0.3) as client:
        began = time.monotonic()
        with pytest.raises(NodeUnreachable, match=r"gave no sign of life for 0\.3 s"):
            await until(client.launch(spec("silent")), Exited)
        assert time.monotonic() - began < 2


async def test_nobody_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        async with NodeClient(address) as client:
            for call in (client.describe(), client.reserve_ports(1), client.stop("secret 1", 1)):
                began = time.monotonic()
                with pytest.raises(NodeUnreachable, match=f"agent at {address} can't be reached"):
                    await call
                assert time.monotonic() - began < 3


async def test_something_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.node_client.ANSWER_SECONDS", 0.5)

    with socket.socket() as web:
        web.bind(("127.0.0.1", 0))
        web.listen()
        web.setblocking(False)
        address = f"127.0.0.1:{web.getsockname()[1]}"
        async with NodeClient(address) as client, asyncio.TaskGroup() as group:
            call = group.create_task(refused(client))
            connection, _ = await asyncio.get_running_loop().sock_accept(web)
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await asyncio.wait([call])


async def refused(client: NodeClient) -> None:
    with pytest.raises(NodeUnreachable):
        await client.describe()


async def test_beyond_loopback_without_a_certificate(agent: Agent) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "studio.local"):
        with pytest.raises(BadConfiguration, match="needs a certificate of its cluster"):
            await NodeServer.start(host, 0, None, agent)
        with pytest.raises(BadConfiguration, match="needs a certificate of its cluster"):
            NodeClient(f"{host}:8644")


async def test_a_port_in_use(server: NodeServer, agent: Agent) -> None:
    host, port = split_address(server.address)
    with pytest.raises(AddressInUse, match=f"{host}:{port} is already in use"):
        await NodeServer.start(host, port, None, agent)


async def test_garbage_disturbs_nothing(client: NodeClient, server: NodeServer) -> None:
    async with aclosing(client.launch(spec("ready"))) as events:
        await until(events, Ready)
        host, port = split_address(server.address)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for garbage in (b"", b"\0" * 100_000, b"GET / HTTP/1.1\r\n\r\n", preface + b"\xff" * 9999):
            reader, writer = await asyncio.open_connection(host, port)
            with suppress(OSError):
                writer.write(garbage)
                await writer.drain()
                writer.write_eof()
                async with asyncio.timeout(5):
                    await reader.read()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        assert (await client.describe()).chip == "chip"
        await until(events, Alive)
