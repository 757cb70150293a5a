"""The coordinator has links probed: real agents on several addresses of loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from cluster.coordinator import edges
from cluster.coordinator.edges import candidates, probe_pairs
from cluster.core.cluster import Address, NodeDescription
from cluster.core.errors import NodeUnreachable
from cluster.core.link import Link, ProbeOrder, ProbeResult
from cluster.node.agent import Agent
from cluster.placement.edges import choose_ring, ring_hosts
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


@dataclass
class Node:
    """An agent that says that it is at `addresses`, and at `host`."""

    client: NodeClient
    agent: Agent
    host: str
    addresses: tuple[Address, ...]

    @property
    def description(self) -> NodeDescription:
        self.agent.address = f"{self.host}:1"
        self.agent._addresses = self.addresses
        return self.agent.describe()


@asynccontextmanager
async def cluster(*hosts: tuple[str, tuple[Address, ...]]) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nodes = []
        for host, addresses in hosts:
            agent = make_agent()
            server = await NodeServer.start("127.0.0.1", 0, None, agent)
            stack.push_async_callback(agent.close)
            stack.push_async_callback(server.stop)
            client = await stack.enter_async_context(NodeClient(server.address))
            nodes.append(Node(client, agent, host, addresses))
        yield nodes
        await wait_for(lambda: all(node.agent._listening == 0 for node in nodes))


def at(number: int, *kinds: str) -> tuple[str, tuple[Address, ...]]:
    """A node that has an address 127.<kind>.0.<number> of each kind, and says it isn't loopback."""
    return f"203.0.113.{number}", tuple(
        Address(f"en{place}", f"127.{place}.0.{number}", kind, rdma=f"rdma_en{place}")
        for place, kind in enumerate(kinds, 1)
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "SEND_SECONDS", 0.01)


async def test_agents_on_loopback_are_not_probed() -> None:
    async with cluster(("127.0.0.1", ()), ("127.0.0.2", ()), ("127.0.0.3", ())) as nodes:
        begun = time.perf_counter()
        table = await probe_pairs(nodes)
        ring = choose_ring("abc", table)
        assert time.perf_counter() - begun < 0.2
    assert ring_hosts(ring, [1, 1, 1], "") == ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    assert table[0, 2] == [Link("127.0.0.1", "127.0.0.3", "loopback")]


async def test_one_node_needs_no_probe() -> None:
    async with cluster(at(1, "ethernet")) as nodes:
        assert await probe_pairs(nodes) == {}


async def test_the_best_kind_is_measured_and_chosen() -> None:
    async with cluster(at(1, "wifi", "ethernet"), at(2, "wifi", "ethernet")) as nodes:
        begun = time.perf_counter()
        table = await probe_pairs(nodes)
        assert time.perf_counter() - begun < 2
    by_target = {link.target: link for link in table[0, 1]}
    # The address that the agents say they have, and which is no address of this machine.
    assert by_target["203.0.113.2"].error.startswith("it can't listen there: ")
    wired, wireless = by_target["127.2.0.2"], by_target["127.1.0.2"]
    assert 0 < wired.round_trip < 1
    assert wired.bytes_per_second > 1e6
    assert wired.kind == "ethernet"
    assert wireless.bytes_per_second == 0
    assert choose_ring("ab", table).edges[0].target == "127.2.0.2"


async def test_throughput_is_measured_one_at_a_time_per_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending: list[set[int]] = []
    most = 0
    async with cluster(*(at(number, "ethernet") for number in (1, 2, 3, 4))) as nodes:
        for number, node in enumerate(nodes):
            whole = node.client.probe

            async def probe(
                order: ProbeOrder, number: int = number, whole: object = whole
            ) -> ProbeResult:
                nonlocal most
                if not order.seconds:
                    return await whole(order)  # type: ignore[operator,no-any-return]
                busy = {number, int(order.host.split(".")[3]) - 1}
                assert not any(busy & other for other in sending)
                sending.append(busy)
                most = max(most, len(sending))
                try:
                    return await whole(order)  # type: ignore[operator,no-any-return]
                finally:
                    sending.remove(busy)

            monkeypatch.setattr(node.client, "probe", probe)
        table = await probe_pairs(nodes)
    assert most == 2
    assert all(any(link.bytes_per_second for link in links) for links in table.values())


async def test_an_agent_that_can_not_be_asked() -> None:
    async with cluster(at(1, "ethernet"), at(2, "ethernet")) as nodes:
        nodes[1].client = NodeClient("127.0.0.1:9")
        with pytest.raises(NodeUnreachable, match="127.0.0.1:9"):
            await probe_pairs(nodes)
        await nodes[1].client.close()


async def test_an_agent_that_goes_while_it_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(at(1, "ethernet"), at(2, "ethernet")) as nodes:

        async def gone(order: ProbeOrder) -> ProbeResult:
            raise NodeUnreachable("the agent has gone")

        monkeypatch.setattr(nodes[0].client, "probe", gone)
        table = await probe_pairs(nodes)
    assert {link.error for link in table[0, 1]} >= {"the agent has gone"}
    with pytest.raises(NodeUnreachable, match="a can't reach b"):
        choose_ring("ab", table)


async def test_what_is_not_known_in_time_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(at(1, "ethernet"), at(2, "ethernet")) as nodes:

        async def never(order: ProbeOrder) -> ProbeResult:
            await asyncio.sleep(60)
            raise AssertionError

        monkeypatch.setattr(nodes[0].client, "probe", never)
        begun = time.perf_counter()
        table = await probe_pairs(nodes, seconds=0.3)
        assert time.perf_counter() - begun < 1
    assert [link.target for link in table[0, 1] if not link.error] == []
    assert [link.target for link in table[1, 0] if not link.error] == ["127.1.0.1"]


def describe(host: str, *addresses: Address) -> NodeDescription:
    agent = make_agent()
    agent.address = f"{host}:7"
    agent._addresses = addresses
    return agent.describe()


async def test_candidates() -> None:
    wifi, wire, six, lo = (
        Address("en1", "10.0.0.1", "wifi"), Address("en5", "169.254.1.1", "thunderbolt"),
        Address("en5", "fd00::1", "thunderbolt"), Address("lo", "127.0.0.1", "loopback"),
    )  # fmt: skip
    assert candidates(describe("10.0.0.1", wifi, wire, six, lo)) == ("169.254.1.1", "10.0.0.1")
    assert candidates(describe("127.0.0.1", wifi, wire, lo)) == ("127.0.0.1",)
    assert candidates(describe("[fd00::1]", six, wifi)) == ("10.0.0.1",)
    assert candidates(describe("10.9.9.9", wifi)) == ("10.9.9.9", "10.0.0.1")
    many = [Address("en0", f"10.0.0.{n}", "ethernet") for n in range(50)]
    found = candidates(describe("10.0.0.40", *many))
    assert found[0] == "10.0.0.40" and len(found) == edges.MOST_ADDRESSES
    assert candidates(describe("10.0.0.1", Address("en0", "nonsense", "ethernet"))) == ("10.0.0.1",)
