"""A cluster with certificates on loopback addresses, and everybody who is to be kept out."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.coordinator.trust import Trust
from cluster.core.cluster import NodeDescription
from cluster.trust import certificate
from cluster.trust.authority import Authority
from cluster.trust.certificate import Name, Role
from cluster.trust.identity import Draft, Identity, IdentityFile, write_identity
from cluster.wire.registry import RegistryServer
from cluster.wire.security import split_address
from tests.integration.test_node_agent import make_agent
from tests.integration.test_node_registry import Members


def free_port(host: str) -> int:
    """A port that is free, and the second above it too."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind((host, port))
            other.bind((host, port + 2))
            return port


@dataclass
class Cluster:
    """A coordinator that listens, and who is a member of it."""

    trust: Trust
    registry: RegistryServer
    members: Members

    @property
    def authority(self) -> Authority:
        return self.trust.authority

    @property
    def enrollment(self) -> str:
        host, port = split_address(self.registry.address)
        return f"{host}:{port + 2}"

    def token(self, seconds: float = 60, *, reusable: bool = False) -> str:
        return str(self.authority.create_token(seconds, reusable=reusable))

    def joined(self, folder: Path) -> IdentityFile:
        """The identity of a machine that has enrolled."""
        draft = Draft()
        issued = self.authority.enroll(self.token(), draft.request, folder.name)
        identity = draft.finish(
            issued.certificate, issued.authority, self.registry.address, "0" * 10
        )
        return kept(folder, identity)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Cluster]:
    """A coordinator whose authority is in `folder`."""
    members = Members()
    port = free_port("127.0.0.1")
    async with Trust.open(folder) as trust, trust.enrolling("127.0.0.1", port):
        registry = await RegistryServer.start(
            "127.0.0.1", port, members, trust.identity, trust.authority
        )
        try:
            yield Cluster(trust, registry, members)
        finally:
            await registry.stop()


def kept(folder: Path, identity: Identity) -> IdentityFile:
    path = folder / "node.json"
    write_identity(path, identity)
    return IdentityFile(path)


def forged(
    cluster: Cluster, folder: Path, *, days: float = 30, role: Role = Role.NODE, name: str = ""
) -> IdentityFile:
    """What only the holder of the authority's key can make: any name, any time."""
    key, authority = certificate.make_key(), cluster.authority.certificate
    leaf = certificate.issue(
        Name(cluster.authority.cluster, role, name or folder.name),
        key.public_key(),
        authority,
        cluster.authority._key,
        time.time(),
        days,
    )
    return kept(
        folder,
        Identity(
            key=certificate.key_pem(key),
            certificate=certificate.pem(leaf),
            authority=certificate.pem(authority),
            coordinator=cluster.registry.address,
        ),
    )


def foreign(cluster: Cluster, folder: Path) -> IdentityFile:
    """A machine of another cluster, that trusts the authority of this one and so talks to it."""
    other = Authority.open(folder / "other")
    other.renew_own()
    identity = IdentityFile(other.folder / "local.json").current()
    both = certificate.pem(cluster.authority.certificate)
    file = kept(folder, identity)
    file._identity = identity.model_copy(update={"authority": both})
    return file


def description(identity: IdentityFile, address: str = "127.0.0.2:7000") -> NodeDescription:
    agent = make_agent()
    agent.address = address
    return replace(agent.describe(), node_id=identity.current().name.id)


async def send(address: str, data: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    reader, writer = await asyncio.open_connection(*split_address(address))
    said = b""
    try:
        async with asyncio.timeout(12):
            with suppress(OSError):
                writer.write(data)
                await writer.drain()
                said = await reader.read()
    finally:
        writer.transport.abort()
    return said


@dataclass
class Tap:
    """Somebody on the line between a client and a server, who keeps what the client says."""

    address: str = ""
    heard: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def tapped(server: str, port: int = 0) -> AsyncIterator[Tap]:
    """A line to a server with a tap on it."""
    tap = Tap()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(*split_address(server))

        async def pass_on(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bool
        ) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    if keep:
                        tap.heard += data
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(pass_on(reader, here, True), pass_on(there, writer, False))

    listening = await asyncio.start_server(connected, "127.0.0.4", port)
    tap.address = "{}:{}".format(*listening.sockets[0].getsockname())
    try:
        yield tap
    finally:
        listening.close()
