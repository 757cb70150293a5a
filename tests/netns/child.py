"""What runs in a machine of the tests: `python -m tests.netns.child VERB ...`.

Prints one line of JSON for each thing that has happened.

    agent               an agent without a model; its address
    probe ADDRESS...    has the links between those agents probed; the table and the ring's hosts
                        (both need `Network.certify`)
    survey ADDRESS...   asks those agents at once what they find; for each its id, whom it has heard
                        and how far its clock is ahead, or why it has not answered
    advertise           a coordinator that listens and says so; its port
    find                looks for a coordinator; its address
    browse              what comes and goes
    lie MARK COUNT      that so many coordinators of the cluster with that mark are here, of which
                        the latest has an authority of its own
    knock OTHER AUTHORITY MEMBER ADDRESS...
                        at each address, without encryption, without a certificate, and with one
                        of another cluster (the folder OTHER) and of a member (a file): the status
                        of each call, or what it was answered
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from cluster.coordinator import members as members_module
from cluster.coordinator.edges import probe_pairs
from cluster.coordinator.survey import survey as ask_all
from cluster.core.cluster import Blas, NodeDescription
from cluster.discovery import mdns
from cluster.discovery.advert import Advert
from cluster.discovery.find import find_coordinator
from cluster.node.agent import Agent
from cluster.node.hardware import read_hardware
from cluster.node.incarnation import next_incarnation
from cluster.node.links import read_addresses
from cluster.placement.edges import choose_ring, ring_hosts
from cluster.trust.authority import Authority
from cluster.trust.certificate import Role
from cluster.trust.identity import Identity, IdentityFile
from cluster.wire.enrollment import PORT_ABOVE, EnrollmentServer
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from cluster.wire.security import split_address
from cluster.wire.v1 import node_pb2

PACKAGE = node_pb2.DESCRIPTOR.package
COORDINATOR_PORTS = (8643, 8643 + PORT_ABOVE)


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


async def survey(*addresses: str) -> None:
    async with AsyncExitStack() as stack:
        members = []
        for address in addresses:
            client = NodeClient(address, identity("coordinator"))
            await stack.enter_async_context(client)
            members.append(members_module.Member(client, await client.describe(), 1))
        for each in await ask_all(members):
            heard = each.facts and each.facts.heard
            say([each.node_id, heard, each.ahead, each.error])


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


async def lie(mark: str, count: str) -> None:
    addresses = read_addresses()
    outside = tuple(a for a in addresses if a.interface == "eth0" and ":" not in a.ip)
    (host,) = (address.ip for address in outside)
    other = Authority.open(Path.home() / "liar")
    other.renew_own()
    shown = IdentityFile(other.folder / "coordinator.json")
    enrolling = await EnrollmentServer.start(host, 0, shown, other)
    registry = split_address(enrolling.address)[1] - PORT_ABOVE
    lies = [
        Advert("coordinator", "lies", mark, f"liar-{n}", 1 << 63, registry - n, outside)
        for n in range(int(count))
    ]
    async with AsyncExitStack() as stack:
        for each in lies:
            await stack.enter_async_context(mdns.advertise(each, [host]))
        say(registry)
        await asyncio.Event().wait()


async def knock(*words: str) -> None:
    await asyncio.to_thread(_knock, *words)


def _knock(other: str, authority: str, member: str, *addresses: str) -> None:
    root = Path(authority).read_bytes()
    shown: dict[str, Identity | None] = {
        "no certificate": None,
        "another cluster's": IdentityFile(Path(other) / "coordinator.json").current(),
        "a member's": IdentityFile(Path(member)).current(),
    }
    for address in addresses:
        channels = {"no encryption": grpc.insecure_channel(address)}
        for who, identity in shown.items():
            pair = [None, None]
            if identity is not None:
                pair = [identity.key.encode(), identity.certificate.encode()]
            port = split_address(address)[1]
            role = Role.COORDINATOR if port in COORDINATOR_PORTS else Role.NODE
            name = [("grpc.ssl_target_name_override", role.server_name)]
            credentials = grpc.ssl_channel_credentials(root, *pair)
            channels[who] = grpc.secure_channel(address, credentials, options=name)
        for who, channel in channels.items():
            for method in ("Node/Describe", "Engine/Run"):
                call = channel.unary_unary(f"/{PACKAGE}.{method}")
                try:
                    answer = repr(call(b"", timeout=10))
                except grpc.RpcError as error:
                    answer = error.code().name
                say([address, who, method, answer])
            channel.close()


VERBS = {
    verb.__name__: verb for verb in (agent, probe, survey, advertise, find, browse, lie, knock)
}

if __name__ == "__main__":
    # Short lives, so that a test can wait for their end.
    if sys.argv[1] != "lie":
        mdns.TTL_SECONDS, mdns.REFRESH_SECONDS, mdns.RESOLVE_SECONDS = 1, 0.2, 0.5
    asyncio.run(VERBS[sys.argv[1]](*sys.argv[2:]))
