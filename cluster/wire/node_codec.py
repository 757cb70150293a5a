"""Nouns of machines and engine processes <-> their messages."""

from __future__ import annotations

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
)
from cluster.core.errors import ProtocolError
from cluster.core.ids import Epoch
from cluster.core.manifest import ModelFile, Wanted
from cluster.wire.codec import plan_from, plan_to, versions_from, versions_to
from cluster.wire.v1 import node_pb2


def description_to_wire(node: NodeDescription) -> node_pb2.NodeDescription:
    """What an agent reports, as a message."""
    return node_pb2.NodeDescription(
        node_id=node.node_id,
        hostname=node.hostname,
        chip=node.chip,
        cores=node.cores,
        memory_bytes=node.memory_bytes,
        usable_bytes=node.usable_bytes,
        system=node.system,
        versions=versions_to(node.versions),
        blas=blas_to(node.blas),
        addresses=map(address_to, node.addresses),
        agent_address=node.agent_address,
        incarnation=node.incarnation,
        boot_id=node.boot_id,
        instance=node.instance,
    )


def description_from_wire(message: node_pb2.NodeDescription) -> NodeDescription:
    """What an agent reports."""
    return NodeDescription(
        node_id=message.node_id,
        hostname=message.hostname,
        chip=message.chip,
        cores=message.cores,
        memory_bytes=message.memory_bytes,
        usable_bytes=message.usable_bytes,
        system=message.system,
        versions=versions_from(message.versions),
        blas=blas_from(message.blas),
        addresses=tuple(map(address_from, message.addresses)),
        agent_address=message.agent_address,
        incarnation=message.incarnation,
        boot_id=message.boot_id,
        instance=message.instance,
    )


def blas_to(blas: Blas) -> node_pb2.Blas:
    """A matrix library, as a message."""
    return node_pb2.Blas(name=blas.name, preload=blas.preload, fast=blas.fast, advice=blas.advice)


def blas_from(message: node_pb2.Blas) -> Blas:
    """A matrix library."""
    return Blas(message.name, message.preload, message.fast, message.advice)


def address_to(address: Address) -> node_pb2.Address:
    """An address, as a message."""
    return node_pb2.Address(
        interface=address.interface,
        ip=address.ip,
        kind=address.kind,
        speed_mbps=address.speed_mbps,
        mtu=address.mtu,
        rdma=address.rdma,
    )


def address_from(message: node_pb2.Address) -> Address:
    """An address."""
    m = message
    return Address(m.interface, m.ip, m.kind, m.speed_mbps, m.mtu, m.rdma)


def launch_to_wire(spec: LaunchSpec) -> node_pb2.LaunchRequest:
    """An engine's orders, as a message."""
    return node_pb2.LaunchRequest(
        epoch=spec.epoch,
        secret=spec.secret,
        model=spec.model,
        model_digest=spec.model_digest,
        plan=plan_to(spec.plan),
        ring=spec.ring,
        threads=spec.threads,
        kv_bits=spec.kv_bits,
        kv_dir=spec.kv_dir,
        draft_model=spec.draft_model,
        draft_digest=spec.draft_digest,
        rdma=[node_pb2.RdmaRow(devices=row) for row in spec.rdma],
        sources=spec.sources,
        incarnation=spec.incarnation,
    )


def launch_from_wire(message: node_pb2.LaunchRequest) -> LaunchSpec:
    """An engine's orders; raises ProtocolError when the plan contradicts itself, or when anybody
    could ask for the engine."""
    p = message.plan
    if not message.secret:
        raise ProtocolError("a launch without a secret")
    if not 0 <= p.rank < p.world:
        raise ProtocolError(f"a launch for rank {p.rank} of a world of {p.world}")
    if message.ring and len(message.ring) != p.world:
        raise ProtocolError(f"{len(message.ring)} ring addresses for a world of {p.world}")
    if message.rdma and {len(message.rdma), *(len(r.devices) for r in message.rdma)} != {p.world}:
        raise ProtocolError(f"the RDMA devices are no matrix of {p.world} by {p.world}")
    return LaunchSpec(
        epoch=Epoch(message.epoch),
        secret=message.secret,
        model=message.model,
        model_digest=message.model_digest,
        plan=plan_from(p),
        ring=tuple(message.ring),
        threads=message.threads,
        kv_bits=message.kv_bits,
        kv_dir=message.kv_dir,
        draft_model=message.draft_model,
        draft_digest=message.draft_digest,
        rdma=tuple(tuple(row.devices) for row in message.rdma),
        sources=tuple(message.sources),
        incarnation=message.incarnation,
    )


def event_to_wire(event: EngineEvent) -> node_pb2.EngineEvent:
    """One piece of news of an engine's life, as a message."""
    match event:
        case Started():
            return node_pb2.EngineEvent(started=node_pb2.Started(pid=event.pid))
        case Loading():
            return node_pb2.EngineEvent(loading=loading_to_wire(event))
        case Ready():
            ready = node_pb2.Ready(endpoint=event.endpoint, seconds=event.seconds)
            return node_pb2.EngineEvent(ready=ready)
        case Alive():
            return node_pb2.EngineEvent(alive=alive_to_wire(event))
        case Exited():
            exited = node_pb2.Exited(code=event.code, last_words=event.last_words)
            return node_pb2.EngineEvent(exited=exited)


def event_from_wire(message: node_pb2.EngineEvent) -> EngineEvent | None:
    """One piece of news of an engine's life; None for a kind that this version does not know."""
    match message.WhichOneof("kind"):
        case "started":
            return Started(pid=message.started.pid)
        case "loading":
            return loading_from_wire(message.loading)
        case "ready":
            return Ready(endpoint=message.ready.endpoint, seconds=message.ready.seconds)
        case "alive":
            return alive_from_wire(message.alive)
        case "exited":
            return Exited(code=message.exited.code, last_words=message.exited.last_words)
        case _:
            return None


def loading_to_wire(loading: Loading) -> node_pb2.Loading:
    """How far an engine or its weights are, as a message."""
    return node_pb2.Loading(what=loading.what, fraction=loading.fraction)


def loading_from_wire(message: node_pb2.Loading) -> Loading:
    """How far an engine or its weights are."""
    return Loading(what=message.what, fraction=message.fraction)


def alive_to_wire(alive: Alive) -> node_pb2.Alive:
    """A sign of life, as a message."""
    return node_pb2.Alive(rss_bytes=alive.rss_bytes, cpu_seconds=alive.cpu_seconds)


def alive_from_wire(message: node_pb2.Alive) -> Alive:
    """A sign of life."""
    return Alive(rss_bytes=message.rss_bytes, cpu_seconds=message.cpu_seconds)


def wanted_to_wire(wanted: Wanted) -> node_pb2.ModelRequest:
    """What one agent asks another for, as a message."""
    cut = plan_to(wanted.cut) if wanted.cut is not None else None
    return node_pb2.ModelRequest(model=wanted.model, digest=wanted.digest, cut=cut)


def wanted_from_wire(message: node_pb2.ModelRequest) -> Wanted:
    """What an agent is asked for; raises ProtocolError when it can't be."""
    if not message.HasField("cut"):
        return Wanted(message.model, message.digest)
    cut = plan_from(message.cut)
    part = ShardPlan(cut.world, cut.rank, cut.kind, layers=cut.layers)
    return Wanted(message.model, message.digest, part)


def file_to_wire(file: ModelFile) -> node_pb2.ModelFile:
    """A line of a manifest, as a message."""
    return node_pb2.ModelFile(name=file.name, size=file.size, hashes=file.hashes)


def file_from_wire(message: node_pb2.ModelFile) -> ModelFile:
    """A line of a manifest."""
    return ModelFile(message.name, message.size, tuple(message.hashes))
