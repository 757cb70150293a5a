"""The links between the cluster's nodes, as their agents measure them for the coordinator."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Protocol

from cluster.core.cluster import Address, NodeDescription
from cluster.core.errors import NodeUnreachable
from cluster.core.link import Door, Link, LinkTable, ProbeOrder
from cluster.placement.edges import kind_rank
from cluster.wire.node_client import NodeClient
from cluster.wire.security import is_loopback, split_address

PROBE_SECONDS = 10.0
"""For all probes of one forming."""

SEND_SECONDS = 0.06
"""Of each measurement of throughput."""

AT_ONCE = 16
"""Probes that one agent makes at a time of what can be reached."""

MOST_ADDRESSES = 8
"""Of a node, that are probed."""

_CLIENTS = 1024
"""Connections to a node's listeners; 15 nodes, each twice to 8 addresses, and strangers."""


class Node(Protocol):
    """A member, as far as it takes part in probes."""

    @property
    def client(self) -> NodeClient: ...

    @property
    def description(self) -> NodeDescription: ...


async def probe_pairs(nodes: Sequence[Node], *, seconds: float = PROBE_SECONDS) -> LinkTable:
    """What the links from every node to every address of every other are like.

    First whether each can be reached and how far it is, all at once; then the throughput of those
    of the best kind of each pair, one at a time per node. What is not known after `seconds` is
    left out of the table, or has no throughput. Nodes that all listen on loopback are not probed.
    Raises NodeUnreachable when an agent does not answer, LaunchFailed when it can't listen.
    """
    if all(is_loopback(_host(node.description)) for node in nodes):
        return _loopback([_host(node.description) for node in nodes])
    probing = _Probing(nodes)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await probing.run(seconds)
    return probing.table


def candidates(node: NodeDescription) -> tuple[str, ...]:
    """Addresses of a node on which the data plane might listen, best kinds first.

    IPv4, which is what MLX's ring takes. An agent on loopback has no other; of another agent
    the address that it listens on is among them in any case.
    """
    host = _host(node)
    if is_loopback(host):
        return (host,)
    usable = [a for a in node.addresses if a.kind != "loopback" and _is_ipv4(a.ip)]
    usable.sort(key=lambda address: (kind_rank(address.kind), address.ip != host))
    found = dict.fromkeys(address.ip for address in usable)
    if _is_ipv4(host) and host not in list(found)[:MOST_ADDRESSES]:
        found = dict.fromkeys((host, *found))
    return tuple(found)[:MOST_ADDRESSES]


class _Probing:
    """One round of probes."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.table: dict[tuple[int, int], list[Link]] = {
            (one, other): []
            for one in range(len(nodes))
            for other in range(len(nodes))
            if one != other
        }
        self._nodes = nodes
        self._orders: dict[tuple[int, str], ProbeOrder] = {}
        """How to reach an address of a node."""
        self._room = [asyncio.Semaphore(AT_ONCE) for _ in nodes]
        self._sending = [asyncio.Lock() for _ in nodes]

    async def run(self, seconds: float) -> None:
        async with AsyncExitStack() as stack:
            doors: list[tuple[Door, ...]] = []
            for number, node in enumerate(self._nodes):
                hosts = candidates(node.description)
                entering = node.client.listening(hosts, seconds=seconds, clients=_CLIENTS)
                listening = await stack.enter_async_context(entering)
                doors.append(listening.doors)
                for door in listening.doors:
                    order = ProbeOrder(door.host, door.port, listening.token)
                    self._orders[number, door.host] = order
            async with asyncio.TaskGroup() as group:
                for one, other in self.table:
                    for door in doors[other]:
                        group.create_task(self._reach(one, other, door))
            async with asyncio.TaskGroup() as group:
                for pair in self.table:
                    group.create_task(self._measure(pair))

    async def _reach(self, one: int, other: int, door: Door) -> None:
        """Add the link to the table, usable or not."""
        if door.error:
            error = f"it can't listen there: {door.error}"
            link = Link("", door.host, "other", error=error)
        else:
            async with self._room[one]:
                link = await self._probe(one, other, self._orders[other, door.host])
        self.table[one, other].append(link)

    async def _measure(self, pair: tuple[int, int]) -> None:
        """Put the throughput of the pair's best links into the table."""
        one, other = pair
        links = self.table[pair]
        best = min((kind_rank(link.kind) for link in links if not link.error), default=None)
        async with self._sending[min(pair)], self._sending[max(pair)]:
            for place, link in enumerate(links):
                if not link.error and kind_rank(link.kind) == best:
                    order = replace(self._orders[other, link.target], seconds=SEND_SECONDS)
                    links[place] = await self._probe(one, other, order)

    async def _probe(self, one: int, other: int, order: ProbeOrder) -> Link:
        node, there = self._nodes[one], self._nodes[other].description
        try:
            result = await node.client.probe(order)
        except NodeUnreachable as error:
            return Link("", order.host, "other", error=str(error))
        target = _address(there, order.host)
        if result.error:
            return Link("", order.host, target.kind, error=result.error)
        source = _address(node.description, result.source)
        return Link(
            source=result.source,
            target=order.host,
            kind=max(source.kind, target.kind, key=kind_rank),
            round_trip=result.round_trip,
            bytes_per_second=result.bytes_per_second,
            rdma=(source.rdma, target.rdma),
        )


def _host(node: NodeDescription) -> str:
    return split_address(node.agent_address)[0]


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def _address(node: NodeDescription, ip: str) -> Address:
    """The node's address `ip`, with its kind."""
    kind = "loopback" if is_loopback(ip) else "other"
    return next((a for a in node.addresses if a.ip == ip), Address("", ip, kind))


def _loopback(hosts: Sequence[str]) -> LinkTable:
    """Links of agents on one machine, which need no probe."""
    return {
        (one, other): [Link(hosts[one], hosts[other], "loopback")]
        for one in range(len(hosts))
        for other in range(len(hosts))
        if one != other
    }
