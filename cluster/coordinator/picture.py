"""The state of everything at one moment, for people: what `GET /cluster` answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.coordinator.epoch import Group
from cluster.coordinator.journal import Entry
from cluster.core.cluster import NodeDescription
from cluster.core.view import ClusterView, Counters, RankView, RequestView

if TYPE_CHECKING:
    from cluster.coordinator.coordinator import Coordinator

SLOWEST_FIRST = ("wifi", "other", "ethernet", "thunderbolt", "loopback")


def picture(coordinator: Coordinator) -> ClusterView:
    """Look at a coordinator, its group and its live requests; changes nothing."""
    now = coordinator.clock.now()
    group, scheduler = coordinator.group, coordinator.scheduler
    decoded, prefilled = coordinator.meter.rates(now)
    engines = group.engines if group else ()
    nodes = tuple(dict.fromkeys(engine.member.description for engine in engines))
    return ClusterView(
        model=coordinator.model,
        health=coordinator.health(),
        epoch=group.epoch if group else 0,
        world=len(engines),
        backend=group.backend if group else "none",
        link=slowest_link(nodes, [engine.member.host for engine in engines]),
        nodes=nodes,
        ranks=_ranks(coordinator, group) if group else (),
        requests=request_views(coordinator),
        counters=counters(coordinator),
        decode_tokens_per_second=decoded,
        prefill_tokens_per_second=prefilled,
        queue_limit=coordinator.limits.queue,
        steps_sent=scheduler.last_seq if scheduler else 0,
        uptime_seconds=now - coordinator.started,
        members=coordinator.crew.view() if coordinator.crew else (),
        history=tuple(coordinator.history),
        links=coordinator.crew.links() if coordinator.crew else (),
    )


def request_views(coordinator: Coordinator, replica: int = 0) -> tuple[RequestView, ...]:
    """All live requests of one group, in the order in which they came."""
    now = coordinator.clock.now()
    return tuple(
        RequestView(
            id=entry.request.id,
            progress=entry.sequence.progress,
            cached_tokens=entry.sequence.cached,
            age_seconds=now - entry.sequence.submitted,
            model=coordinator.model.id,
            replica=replica,
            tokens_per_second=_speed(entry),
        )
        for entry in coordinator.live.journal.values()
    )


def counters(coordinator: Coordinator) -> Counters:
    """What it holds."""
    scheduler = coordinator.scheduler
    return Counters(
        channels=len(coordinator.live.channels),
        sequences=len(scheduler.sequences) if scheduler else 0,
        slots=scheduler.live_slots if scheduler else 0,
        parked=scheduler.parked_slots if scheduler else 0,
        tasks=len(asyncio.all_tasks()),
        journal=len(coordinator.live.journal),
        drained_tokens=coordinator.live.channels.drained_tokens,
        orphan_tokens=coordinator.live.channels.orphan_tokens,
    )


def _speed(entry: Entry) -> float:
    """Of the tokens after the first."""
    if entry.first is None or entry.last <= entry.first:
        return 0.0
    return (entry.delivered - 1) / (entry.last - entry.first)


def _ranks(coordinator: Coordinator, group: Group) -> tuple[RankView, ...]:
    ranks, straggler = group.ranks, coordinator.straggler
    speeds, slow = straggler.read_bytes_per_second, straggler.slow
    return tuple(
        RankView(
            rank=engine.rank,
            node_id=engine.member.description.node_id,
            endpoint=engine.endpoint,
            pid=engine.pid,
            weight_bytes=engine.weight_bytes,
            memory_bytes=ranks.memory_bytes[engine.rank],
            peak_bytes=ranks.peak_bytes[engine.rank],
            rss_bytes=engine.rss_bytes,
            last_seq=ranks.last_seq[engine.rank],
            read_bytes_per_second=speeds.get(engine.rank),
            slow=engine.rank in slow,
        )
        for engine in group.engines
    )


def slowest_link(nodes: Sequence[NodeDescription], hosts: Sequence[str]) -> str:
    """Kind of the slowest interface that carries the data plane; "none" for one rank."""
    if len(hosts) < 2:
        return "none"
    kinds = {address.ip: address.kind for node in nodes for address in node.addresses}
    used = [kinds.get(host, "loopback" if host.startswith("127.") else "other") for host in hosts]
    return min(used, key=SLOWEST_FIRST.index)
