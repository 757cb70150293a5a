"""Facts of a machine <-> their message."""

from __future__ import annotations

import math

from cluster.core.errors import ProtocolError
from cluster.core.facts import Disk, Facts, FirewallState, ThunderboltPort
from cluster.wire.codec import versions_from, versions_to
from cluster.wire.node_codec import address_from, address_to, blas_from, blas_to
from cluster.wire.v1 import node_pb2


def facts_to_wire(facts: Facts) -> node_pb2.Facts:
    """What a machine was found to be, as a message."""
    return node_pb2.Facts(
        hostname=facts.hostname,
        system=facts.system,
        chip=facts.chip,
        cores=facts.cores,
        memory_bytes=facts.memory_bytes,
        usable_bytes=facts.usable_bytes,
        available_bytes=facts.available_bytes,
        locked_limit_bytes=facts.locked_limit_bytes,
        blas=blas_to(facts.blas),
        versions=versions_to(facts.versions),
        python=facts.python,
        addresses=map(address_to, facts.addresses),
        networks=facts.networks,
        disks=[
            node_pb2.Disk(use=d.use, path=d.path, free_bytes=d.free_bytes, writable=d.writable)
            for d in facts.disks
        ],
        multicast_error=facts.multicast_error,
        thunderbolt=[
            node_pb2.ThunderboltPort(
                name=port.name, interface=port.interface, gigabits=port.gigabits, peer=port.peer
            )
            for port in facts.thunderbolt
        ],
        bridged=facts.bridged,
        rdma_setting=facts.rdma_setting,
        rdma_devices=facts.rdma_devices,
        rdma_active=facts.rdma_active,
        firewall=facts.firewall,
        firewall_state=facts.firewall_state,
        wired_limit_mb=facts.wired_limit_mb,
        clock_synchronized=facts.clock_synchronized,
        clock_offset=facts.clock_offset,
        unanswered=facts.unanswered,
        heard=None if facts.heard is None else node_pb2.Heard(node_ids=facts.heard),
    )


def facts_from_wire(message: node_pb2.Facts) -> Facts:
    """What a machine was found to be; raises ProtocolError for an offset that is no number."""
    m = message
    if not math.isfinite(m.clock_offset):
        raise ProtocolError(f"a clock offset of {m.clock_offset} s")
    return Facts(
        hostname=m.hostname,
        system=m.system,
        chip=m.chip,
        cores=m.cores,
        memory_bytes=m.memory_bytes,
        usable_bytes=m.usable_bytes,
        available_bytes=m.available_bytes,
        locked_limit_bytes=m.locked_limit_bytes,
        blas=blas_from(m.blas),
        versions=versions_from(m.versions),
        python=m.python,
        addresses=tuple(map(address_from, m.addresses)),
        networks=tuple(m.networks),
        disks=tuple(Disk(d.use, d.path, d.free_bytes, d.writable) for d in m.disks),
        multicast_error=m.multicast_error,
        thunderbolt=tuple(
            ThunderboltPort(port.name, port.interface, port.gigabits, port.peer)
            for port in m.thunderbolt
        ),
        bridged=tuple(m.bridged),
        rdma_setting=m.rdma_setting,
        rdma_devices=tuple(m.rdma_devices),
        rdma_active=tuple(m.rdma_active),
        firewall=m.firewall,
        firewall_state=_state(m.firewall_state),
        wired_limit_mb=m.wired_limit_mb,
        clock_synchronized=m.clock_synchronized if m.HasField("clock_synchronized") else None,
        clock_offset=m.clock_offset if m.HasField("clock_offset") else None,
        unanswered=tuple(m.unanswered),
        heard=tuple(m.heard.node_ids) if m.HasField("heard") else None,
    )


def _state(text: str) -> FirewallState:
    """One that this version does not know is unknown."""
    return FirewallState(text) if text in tuple(FirewallState) else FirewallState.UNKNOWN
