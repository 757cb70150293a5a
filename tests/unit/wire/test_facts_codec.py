"""What goes out is what comes in."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.core.cluster import Address, Blas, Versions
from cluster.core.errors import ProtocolError
from cluster.core.facts import Disk, Facts, FirewallState, ThunderboltPort
from cluster.wire.facts_codec import facts_from_wire, facts_to_wire
from cluster.wire.v1 import node_pb2

FULL = Facts(
    hostname="studio.local", system="macOS 26.2", chip="Apple M3 Ultra", cores=32,
    memory_bytes=512 << 30, usable_bytes=384 << 30, available_bytes=300 << 30,
    locked_limit_bytes=-1, blas=Blas("Metal", "p", True, "none"),
    versions=Versions(4, "0.1.0", "0.32.4", "0.32.2"), python="/opt/python",
    addresses=(Address("en2", "10.0.0.1", "thunderbolt", 40000, 1500, "rdma_en2"),),
    networks=("10.0.0.0/24",), disks=(Disk("models", "/var/m", 9 << 40, True),),
    multicast_error="EHOSTUNREACH", thunderbolt=(ThunderboltPort("Thunderbolt 1", "en2", 80, "b"),),
    bridged=("en3",), rdma_setting="enabled", rdma_devices=("rdma_en2",), rdma_active=("rdma_en2",),
    firewall="macOS", firewall_state=FirewallState.CLOSED, wired_limit_mb=400 << 10,
    clock_synchronized=False, clock_offset=-0.25, unanswered=("sntp",), heard=("mini-1", "mini-2"),
)  # fmt: skip
EMPTY = Facts(
    "", "", "", 0, 0, 0, 0, 0, Blas("", "", False, ""), Versions(0, "", "", ""), "", (), (), ()
)


@pytest.mark.parametrize(
    "facts",
    [
        FULL,
        EMPTY,
        dataclasses.replace(EMPTY, heard=()),
        dataclasses.replace(EMPTY, clock_offset=0.0, clock_synchronized=True),
        *[dataclasses.replace(EMPTY, firewall_state=state) for state in FirewallState],
    ],
)
def test_facts(facts: Facts) -> None:
    again = node_pb2.Facts.FromString(facts_to_wire(facts).SerializeToString())
    assert facts_from_wire(again) == facts


def test_every_field_is_tried() -> None:
    for field in dataclasses.fields(Facts):
        assert getattr(FULL, field.name) != getattr(EMPTY, field.name), field.name


def test_what_makes_no_sense() -> None:
    assert (
        facts_from_wire(node_pb2.Facts(firewall_state="ajar")).firewall_state
        is FirewallState.UNKNOWN
    )
    with pytest.raises(ProtocolError, match="nan"):
        facts_from_wire(node_pb2.Facts(clock_offset=float("nan")))
