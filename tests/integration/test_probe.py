"""Probes over loopback: links that are there, that are not, and strangers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest

from cluster.core.errors import BadConfiguration, LaunchFailed
from cluster.core.link import Door, Listening, ProbeOrder
from cluster.node import probe as module
from cluster.node.agent import MOST_LISTENING, Agent
from cluster.node.probe import listeners, probe
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from tests.conftest import wait_for
from tests.integration.test_node_agent import make_agent

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    yield
    await wait_for(lambda: not [t for t in asyncio.all_tasks() if "probe" in t.get_name()])


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    async with listeners(("127.0.0.1", "127.0.0.2"), seconds=5, clients=20) as listening:
        yield listening


def order(listening: Listening, door: int = 0) -> ProbeOrder:
    there = listening.doors[door]
    return ProbeOrder(there.host, there.port, listening.token)


async def test_a_link_that_is_there(listening: Listening) -> None:
    found = await probe(order(listening))
    assert (found.error, found.source) == ("", "127.0.0.1")
    assert 0 < found.round_trip < 0.1
    assert found.bytes_per_second == 0


async def test_throughput(listening: Listening) -> None:
    begun = time.monotonic()
    found = await probe(replace(order(listening, 1), source="127.0.0.3", seconds=0.05))
    assert time.monotonic() - begun < 1
    assert (found.error, found.source) == ("", "127.0.0.3")
    assert found.bytes_per_second > 10e6


async def test_many_at_once(listening: Listening) -> None:
    found = await asyncio.gather(*(probe(order(listening, n % 2)) for n in range(12)))
    assert {result.error for result in found} == {""}


async def test_the_wrong_token(listening: Listening) -> None:
    found = await probe(replace(order(listening), token=b"another"))
    assert found.error == "something else answers at this address"


async def test_something_else_listens_there() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await probe(ProbeOrder("127.0.0.1", port, b"token"))
    assert found.error == "something else answers at this address"


async def test_nobody_listens_there(listening: Listening) -> None:
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    with free:
        port = free.getsockname()[1]
        assert (await probe(ProbeOrder("127.0.0.1", port, b""))).error == "Connection refused"


async def test_one_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        found = await probe(ProbeOrder("127.0.0.1", deaf.getsockname()[1], b""))
    assert found.error == "no answer in time"


@pytest.mark.parametrize("host", ["nonsense", "localhost", "", "0.0.0.0"])
async def test_what_is_no_address(listening: Listening, host: str) -> None:
    found = await probe(replace(order(listening), host=host))
    assert found.error == "Cannot assign requested address"


@pytest.mark.parametrize("source", ["203.0.113.1", "nonsense", "0.0.0.0"])
async def test_a_source_that_is_not_ours(listening: Listening, source: str) -> None:
    assert (await probe(replace(order(listening), source=source))).error


async def test_an_address_that_is_not_ours() -> None:
    bad = ("203.0.113.1", "nonsense", "localhost", "0.0.0.0")
    async with listeners((*bad, "127.0.0.1"), 5, 5) as listening:
        *refused, good = listening.doors
        assert refused == [Door(host, 0, "Cannot assign requested address") for host in bad]
        assert good.port > 0


async def test_listeners_die_of_age() -> None:
    async with listeners(("127.0.0.1",), seconds=0.05, clients=5) as listening:
        link = socket.create_connection(("127.0.0.1", listening.doors[0].port))
        link.setblocking(False)
        with link:
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(link, 1) == b""
        await wait_for(lambda: not [t for t in asyncio.all_tasks() if "probes" in t.get_name()])
        assert (await probe(order(listening))).error == "Connection refused"


async def test_listeners_die_of_clients() -> None:
    async with listeners(("127.0.0.1",), seconds=5, clients=2) as listening:
        assert (await probe(order(listening))).error == ""
        assert (await probe(order(listening))).error == ""
        assert (await probe(order(listening))).error == "Connection refused"


async def test_strangers_are_hung_up_on(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    # The last one greets without the token, and asks for an echo.
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1000), bytes(48) + b"e" + bytes(64)):
        with socket.create_connection(("127.0.0.1", listening.doors[0].port)) as stranger:
            stranger.setblocking(False)
            await loop.sock_sendall(stranger, words)
            received = 0
            async with asyncio.timeout(2):
                try:
                    while piece := await loop.sock_recv(stranger, 100):
                        received += len(piece)
                except ConnectionResetError:
                    pass
            assert received <= 48
    assert (await probe(order(listening))).error == ""


async def test_too_many_at_once(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)
    port = listening.doors[0].port
    with (
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)),
    ):
        await wait_for(
            lambda: len([t for t in asyncio.all_tasks() if t.get_name() == "probe"]) == 2
        )
        assert (await probe(order(listening))).error
    await wait_for(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "probe"])
    assert (await probe(order(listening))).error == ""


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0])
async def test_odd_durations(listening: Listening, odd: float) -> None:
    assert (await probe(replace(order(listening), seconds=odd))).bytes_per_second == 0
    async with listeners(("127.0.0.1",), odd, 5) as other:
        assert (await probe(order(other))).error


async def test_a_count_that_never_ends(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    found = await probe(replace(order(listening), seconds=0.5))
    assert found.error == ""


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = make_agent()
    yield agent
    await agent.close()


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[NodeClient]:
    server = await NodeServer.start("127.0.0.1", 0, None, agent)
    async with NodeClient(server.address) as client:
        yield client
    await server.stop()


async def test_two_agents(client: NodeClient) -> None:
    async with client.listening(("127.0.0.2",), seconds=5, clients=3) as listening:
        found = await client.probe(replace(order(listening), seconds=0.02))
        assert (found.error, found.source) == ("", "127.0.0.1")
        assert found.bytes_per_second > 0
    await wait_for(lambda: not [t for t in asyncio.all_tasks() if "probes" in t.get_name()])
    assert (await client.probe(order(listening))).error == "Connection refused"


async def test_an_agent_listens_for_few(client: NodeClient, agent: Agent) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MOST_LISTENING):
            await stack.enter_async_context(client.listening(("127.0.0.1",), seconds=5, clients=1))
        with pytest.raises(LaunchFailed, match="already listens"):
            async with client.listening(("127.0.0.1",), seconds=5, clients=1):
                pass
    await wait_for(lambda: agent._listening == 0)


async def test_an_agent_ends_its_listeners_itself(agent: Agent) -> None:
    async with aclosing(agent.listen(("127.0.0.1",), 0.05, 1)) as events:
        assert len([event async for event in events]) == 1
    assert agent._listening == 0


async def test_ports_of_another_address(client: NodeClient) -> None:
    host, ports = await client.reserve_ports(2, "127.0.0.5")
    assert host == "127.0.0.5" and len(set(ports)) == 2
    with pytest.raises(BadConfiguration, match=r"203\.0\.113\.1"):
        await client.reserve_ports(1, "203.0.113.1")
    for host in ("localhost", "0.0.0.0", "::"):
        with pytest.raises(BadConfiguration, match="not the address of one machine"):
            await client.reserve_ports(1, host)
