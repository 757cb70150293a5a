"""What runs in a machine of the tests: `python -m tests.netns.child VERB ...`.

Prints one line of JSON for each thing that has happened.

    agent               an agent without a model; its address
    probe ADDRESS...    has the links between those agents probed; the table and the ring's hosts
                        (both need `Network.certify`)
    advertise           a coordinator that listens and says so; its port
    find                looks for a coordinator; its address
    browse              what comes and goes
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.coordinator.edges import probe_pairs
from cluster.core.cluster import Blas, NodeDescription
from cluster.discovery import mdns
from cluster.discovery.advert import Advert
from cluster.discovery.find import find_coordinator
from cluster.node.agent import Agent
from cluster.node.hardware import read_hardware
from cluster.node.incarnation import next_incarnation
from cluster.node.links import read_addresses
from cluster.placement.edges import choose_ring, ring_hosts
from cluster.trust.identity import IdentityFile
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def identity(role: str) -> IdentityFile:
    return IdentityFile(Path.home() / f"{role}.json")


@dataclass
class Member:
    """An agent that was called."""

    client: NodeClient
    description: NodeDescription


async def agent() -> None:
    addresses = read_addresses()
    host = next(a.ip for a in addresses if a.interface == "eth0" and ":" not in a.ip)
    agent = Agent(
        host, hardware=read_hardware(), addresses=addresses, blas=Blas("", "", True, ""),
        incarnation=next_incarnation(), identity=identity("node"),
    )  # fmt: skip
    server = await NodeServer.start(host, 0, identity("node"), agent)
    agent.address = server.address
    say(server.address)
    await asyncio.Event().wait()


async def probe(*addresses: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(NodeClient(address, identity("coordinator")))
            for address in addresses
        ]
        members = [Member(client, await client.describe()) for client in clients]
        table = await probe_pairs(members)
        ring = choose_ring([member.description.node_id for member in members], table)
    links = [
        [one, other, link.source, link.target, link.kind, link.bytes_per_second, link.error]
        for (one, other), found in table.items()
        for link in found
    ]
    say({"links": links, "order": ring.order, "hosts": ring_hosts(ring, [1] * len(members), "")})


async def advertise() -> None:
    addresses = read_addresses()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    outside = tuple(a for a in addresses if a.kind != "loopback" and ":" not in a.ip)
    advert = Advert("coordinator", "studio", "c0ffee", "studio-1", 1, port, outside)
    async with server, mdns.advertise(advert, mdns.multicast_addresses(addresses)):
        say(port)
        await asyncio.Event().wait()


async def find() -> None:
    interfaces = mdns.multicast_addresses(read_addresses())
    say(await find_coordinator(lambda advert: advert.cluster_id == "c0ffee", 10, interfaces))


async def browse() -> None:
    async with mdns.browse(mdns.multicast_addresses(read_addresses())) as news:
        say("listening")
        async for event in news:
            say(type(event).__name__)


VERBS = {verb.__name__: verb for verb in (agent, probe, advertise, find, browse)}

if __name__ == "__main__":
    # Short lives, so that a test can wait for their end.
    mdns.TTL_SECONDS, mdns.REFRESH_SECONDS, mdns.RESOLVE_SECONDS = 1, 0.2, 0.5
    asyncio.run(VERBS[sys.argv[1]](*sys.argv[2:]))
