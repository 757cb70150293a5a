"""All models and their groups at one moment: for `GET /models`, `/cluster` and `/metrics`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from functools import reduce

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.metrics import Exposition
from cluster.coordinator.picture import counters, request_views
from cluster.coordinator.served import Served
from cluster.core.view import (
    ClusterView,
    Counters,
    GroupView,
    ModelRankView,
    ModelView,
    ReplicaView,
)
from cluster.membership.fleet import Known, State

STATES = {State.UNLOADING: "loaded"}
"""Where what people are told is not the state's own name: memory is taken as long."""


def model_view(
    served: Served, known: Known, now: float, *, default: bool, kinds: Sequence[str]
) -> ModelView:
    """One model; `kinds` say how each group that runs splits it."""
    groups = served.groups
    live = sum(len(group.live.journal) for group in groups)
    waits = served.loading if known.state is State.LOADING or live else ""
    expires = known.expires()
    return ModelView(
        id=served.id,
        state=STATES.get(known.state, known.state.value),
        pinned=known.pinned,
        default=default,
        context=served.model.context,
        weight_bytes=served.offer.weight_bytes,
        requests=live,
        idle_seconds=0.0 if live or not known.here else max(0.0, now - known.used),
        progress="unloading" if known.state is State.UNLOADING else waits,
        error=known.error,
        replicas=tuple(
            _replica(group, number, kind)
            for number, (group, kind) in enumerate(zip(groups, kinds, strict=False))
        ),
        created=served.model.created,
        demo=served.model.demo,
        keep_alive_seconds=known.keep_alive,
        expires_in_seconds=None if expires is None or live else max(0.0, expires - now),
    )


def _replica(coordinator: Coordinator, number: int, kind: str) -> ReplicaView:
    group = coordinator.group
    engines = group.engines if group else ()
    return ReplicaView(
        replica=number,
        epoch=group.epoch if group else 0,
        world=len(engines),
        kind=kind if len(engines) > 1 else "single",
        health=coordinator.health().reason,
        ranks=tuple(
            ModelRankView(
                engine.rank,
                engine.member.description.node_id,
                engine.weight_bytes,
                group.ranks.memory_bytes[engine.rank] if group else 0,
            )
            for engine in engines
        ),
    )


def cluster_view(first: Served, models: Sequence[Served]) -> ClusterView:
    """The picture of the first model's first group; health is that of the model, requests and
    counts are those of all."""
    view = group_view(first, 0, models)
    every = numbered(models)
    if len(every) == 1:
        return view
    return replace(
        view,
        health=first.health(),
        requests=tuple(view for number, group in every for view in request_views(group, number)),
        counters=_together([counters(group) for _, group in every]),
    )


def group_view(served: Served, replica: int, models: Sequence[Served]) -> ClusterView:
    """The picture of one group, and which others there are."""
    group = served.groups[replica]
    return replace(
        group.view(),
        replica=replica,
        requests=request_views(group, replica),
        groups=tuple(_group(each, n) for n, each in numbered(models) if not each.resting),
    )


def _group(coordinator: Coordinator, number: int) -> GroupView:
    group = coordinator.group
    decoded, _ = coordinator.meter.rates(coordinator.clock.now())
    return GroupView(
        model=coordinator.model.id,
        replica=number,
        epoch=group.epoch if group else 0,
        world=len(group.engines) if group else 0,
        health=coordinator.health().reason,
        decode_tokens_per_second=decoded,
    )


def numbered(models: Iterable[Served]) -> list[tuple[int, Coordinator]]:
    """All groups of all models, each with its number in its model."""
    return [(number, group) for model in models for number, group in enumerate(model.groups)]


def _together(each: Iterable[Counters]) -> Counters:
    """Counts of several groups; tasks are those of the process."""
    rows = [astuple(counts) for counts in each]
    total = Counters(*(reduce(operator.add, column) for column in zip(*rows, strict=True)))
    return replace(total, tasks=total.tasks // len(rows))


def metrics_text(models: Sequence[Served]) -> bytes:
    """What each group counts, but for those that have nothing to tell yet; where there are several
    groups, with the labels that tell them apart, `model` and `replica`."""
    every = numbered(models)
    if len(every) == 1:
        return every[0][1].metrics()
    groups = [
        ({"model": group.model.id, "replica": str(number)}, group)
        for number, group in every
        if not group.resting or group.live.journal or not group.tally.empty
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Labelled(groups))
    return generate_latest(registry)


class _Labelled(Collector):
    """The metrics of several groups, each sample labelled with its own."""

    def __init__(self, groups: Sequence[tuple[dict[str, str], Coordinator]]) -> None:
        self._groups = groups

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        families: dict[str, Metric] = {}
        for labels, group in self._groups:
            for family in Exposition(group).collect():
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, **labels}) for sample in family.samples
                ]
        yield from families.values()
