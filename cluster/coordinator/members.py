"""The machines of the cluster: our own agent, those we dial, and those that join."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self

from cluster.core.cluster import NodeDescription
from cluster.core.errors import BadConfiguration
from cluster.core.versions import require_same
from cluster.wire.node_client import NodeClient
from cluster.wire.registry import RegistryServer
from cluster.wire.security import is_loopback, split_address


@dataclass(frozen=True, slots=True)
class Member:
    """A machine whose agent answers."""

    client: NodeClient
    description: NodeDescription
    ranks: int
    """How many engines it runs."""

    @property
    def host(self) -> str:
        """Where its engines listen."""
        return split_address(self.description.agent_address)[0]


@asynccontextmanager
async def dial(address: str, token: str | None, ranks: int) -> AsyncIterator[Member]:
    """Connect to the agent at "host:port" and ask what machine it is.

    Raises NodeUnreachable, NotAuthorized, or VersionMismatch with every difference by name.
    """
    async with NodeClient(address, token=token) as client:
        description = await client.describe()
        require_same(description.versions, f"the node {description.hostname} ({address})")
        yield Member(client, description, ranks)


class Membership:
    """Workers that announce themselves, first come first served."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self._joined: dict[str, NodeDescription] = {}
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, host: str, port: int, token: str | None) -> AsyncIterator[Self]:
        """Listen for workers at host:port. Raises AddressInUse or BadConfiguration."""
        membership = cls(cluster=socket.gethostname())
        server = await RegistryServer.start(host, port, token, membership)
        try:
            yield membership
        finally:
            await server.stop()

    @contextmanager
    def member(self, node: NodeDescription) -> Iterator[None]:
        """The node is here for as long as this is entered."""
        self._joined[node.agent_address] = node
        self._changed.set()
        try:
            yield
        finally:
            self._joined.pop(node.agent_address, None)

    async def wait(self, count: int) -> list[str]:
        """Addresses of the first `count` workers, once as many are here."""
        while len(self._joined) < count:
            self._changed.clear()
            await self._changed.wait()
        return list(self._joined)[:count]


def check_reach(members: Iterable[Member]) -> None:
    """Raise BadConfiguration when some members listen on loopback and others do not: their
    engines could not reach each other."""
    hosts = {member.host for member in members}
    inside = sorted(host for host in hosts if is_loopback(host))
    outside = sorted(hosts - set(inside))
    if inside and outside:
        raise BadConfiguration(
            f"engines on {inside[0]} can't be reached from {outside[0]}: give this machine's "
            "address on that network with --control ADDRESS:PORT (and a join token)"
        )
