"""What goes out is what comes in."""

from __future__ import annotations

import pytest

from cluster.core.cluster import (
    Address,
    Alive,
    Blas,
    EngineEvent,
    Exited,
    LaunchSpec,
    Loading,
    NodeDescription,
    Ready,
    ShardPlan,
    Started,
    Versions,
)
from cluster.core.errors import ProtocolError
from cluster.core.ids import Epoch, Rank
from cluster.core.link import Door, Listening, ProbeOrder, ProbeResult
from cluster.core.manifest import ModelFile, Wanted
from cluster.wire.node_codec import (
    description_from_wire,
    description_to_wire,
    event_from_wire,
    event_to_wire,
    file_from_wire,
    file_to_wire,
    launch_from_wire,
    launch_to_wire,
    wanted_from_wire,
    wanted_to_wire,
)
from cluster.wire.probe_codec import (
    listening_from_wire,
    listening_to_wire,
    probe_from_wire,
    probe_to_wire,
    probed_from_wire,
    probed_to_wire,
)
from cluster.wire.v1 import node_pb2

NODE = NodeDescription(
    node_id="studio-1", hostname="studio.local", chip="Apple M3 Ultra", cores=32,
    memory_bytes=512 << 30, usable_bytes=384 << 30, system="macOS 26.2",
    versions=Versions(1, "0.1.0", "0.32.4", "0.32.2"), blas=Blas("Metal", "p", True, "none"),
    addresses=(
        Address("en2", "10.0.0.1", "thunderbolt", 40000, 1500, "rdma_en2"),
        Address("lo0", "::1", "loopback"),
    ),
    agent_address="10.0.0.1:7000", incarnation=1 << 61, boot_id="b", instance="i",
)  # fmt: skip
SPEC = LaunchSpec(
    epoch=Epoch(3), secret="s", model="demo", model_digest="d",
    plan=ShardPlan(2, Rank(1), "tensor", "ring"), ring=("a:1", "b:2"), threads=4,
    kv_bits=8, kv_dir="/kv", draft_model="small", draft_digest="e",
    rdma=(("", "rdma_en2"), ("rdma_en3", "")),
    sources=("c:3", "d:4"), incarnation=1 << 61,
)  # fmt: skip


def test_description() -> None:
    assert description_from_wire(description_to_wire(NODE)) == NODE


def test_launch() -> None:
    assert launch_from_wire(launch_to_wire(SPEC)) == SPEC


def test_probes() -> None:
    order = ProbeOrder("10.0.0.2", 4711, b"\0token", "10.0.0.1", 3, 0.5)
    assert probe_from_wire(probe_to_wire(order)) == order
    assert b"token" not in repr(order).encode()
    result = ProbeResult("", "10.0.0.1", 0.001, 1e9)
    assert probed_from_wire(probed_to_wire(result)) == result
    listening = Listening((Door("10.0.0.2", 4711), Door("10.0.0.3", 0, "why")), b"\xfftoken")
    assert listening_from_wire(listening_to_wire(listening)) == listening


def test_rdma_devices_that_are_no_matrix() -> None:
    message = launch_to_wire(SPEC)
    message.rdma[1].devices.append("rdma_en4")
    with pytest.raises(ProtocolError, match="2 by 2"):
        launch_from_wire(message)


@pytest.mark.parametrize(
    "event",
    [
        Started(7), Loading("weights", 0.25), Ready("127.0.0.1:1", 1.5), Alive(1 << 40, 2.5),
        Exited(-9, "killed"),
    ],
)  # fmt: skip
def test_events(event: EngineEvent) -> None:
    assert event_from_wire(event_to_wire(event)) == event


def test_an_event_of_a_later_version_is_skipped() -> None:
    assert event_from_wire(node_pb2.EngineEvent()) is None


@pytest.mark.parametrize(("world", "rank", "ring"), [(2, 2, 2), (0, 0, 0), (2, 0, 1), (1, 0, 2)])
def test_a_launch_that_contradicts_itself(world: int, rank: int, ring: int) -> None:
    message = launch_to_wire(SPEC)
    message.plan.world, message.plan.rank = world, rank
    del message.ring[:]
    message.ring.extend(["a:1"] * ring)
    with pytest.raises(ProtocolError):
        launch_from_wire(message)


@pytest.mark.parametrize(
    "cut",
    [
        None,
        ShardPlan(3, Rank(0), "pipeline"),
        ShardPlan(2, Rank(1), "pipeline", layers=(40, 24)),
    ],
)
def test_what_an_agent_is_asked_for(cut: ShardPlan | None) -> None:
    wanted = Wanted("demo", "0f" * 32, cut)
    assert wanted_from_wire(wanted_to_wire(wanted)) == wanted


@pytest.mark.parametrize(("digest", "kind"), [("../x", "tensor"), ("0f" * 32, "../x")])
def test_what_no_agent_can_be_asked_for(digest: str, kind: str) -> None:
    cut = node_pb2.ModelRequest(digest=digest)
    cut.cut.world, cut.cut.kind = 2, kind
    with pytest.raises(ProtocolError):
        wanted_from_wire(cut)


def test_a_line_of_a_manifest() -> None:
    file = ModelFile("config.json", 1 << 40, (b"h" * 32, b"i" * 32))
    assert file_from_wire(file_to_wire(file)) == file
