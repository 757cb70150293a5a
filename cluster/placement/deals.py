"""The ways to deal the ranks of one split to machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from cluster.placement.fit import Demand, Model, Node, asked_engine, asked_positions, shares
from cluster.placement.room import Engine
from cluster.placement.shard import has_unequal_stages
from cluster.placement.stages import deal_layers

_MOST = 256
"""That are compared for one split: all there are of up to 8 machines."""

Hosts = tuple[Node, ...]
"""The node of each rank."""


def deals(room: Sequence[int], nodes: Sequence[Node], world: int) -> Iterator[Hosts]:
    """Of `world` ranks, as many on each node as it has room for at most; first nodes first."""
    return islice(_deals(room, nodes, world), _MOST)


def unequal_deals(
    model: Model, demand: Demand, world: int, nodes: Sequence[Node]
) -> Iterator[tuple[Hosts, Engine]]:
    """Pipelines of `world` ranks on `nodes` whose stages have the layers that their machines can
    hold, and which hold what is asked for."""
    if not has_unequal_stages(model.config):
        return
    for hosts in deals([node.ranks for node in nodes], nodes, world):
        engine = asked_engine(model, demand, "pipeline", shares(hosts), nodes)
        dealt = deal_layers(engine, model.weights, asked_positions(demand))
        if dealt is not None:
            yield hosts, dealt


def _deals(room: Sequence[int], nodes: Sequence[Node], world: int) -> Iterator[Hosts]:
    if not nodes:
        if world == 0:
            yield ()
        return
    least = max(0, world - sum(room[1:]))
    for count in range(min(room[0], world), least - 1, -1):
        for rest in _deals(room[1:], nodes[1:], world - count):
            yield (*[nodes[0]] * count, *rest)
