"""What is asked of a placement, what machines can give, and what a rank would take of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from cluster.core.cluster import NodeDescription
from cluster.core.errors import BadConfiguration
from cluster.placement.chips import Chip, find_chip
from cluster.placement.kv import check_kv_bits
from cluster.placement.memory import Memory
from cluster.placement.room import SHARE, Engine, needed_memory
from cluster.placement.speed import METAL_FENCE
from cluster.placement.weights import Weights, sum_weights


@dataclass(frozen=True)
class Model:
    """A model, as far as placing it goes."""

    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    """Bytes of each tensor by its name: from its files (model/weights.py) or, where they are not
    here, from the config (placement/parameters.py)."""

    @cached_property
    def weights(self) -> Weights:
        """By layer; summed once, for there may be thousands of tensors."""
        return sum_weights(self.config, self.sizes)


CONTEXT = 32768
"""Positions that are planned for unless told otherwise, or the model's own if that is less."""


def usual_context(longest: int) -> int:
    """What one sequence of a model made for up to `longest` positions is planned to hold."""
    return min(CONTEXT, longest)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the model is to be served with."""

    context: int
    """Positions of each sequence."""
    sequences: int = 1
    """Computed at the same time, each of them with a whole context."""
    kv_bits: int = 0
    """As in LaunchSpec."""
    parallel: str = "auto"
    """"auto", "tensor" or "pipeline"."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine."""

    id: str
    usable_bytes: int
    """For all its ranks together."""
    ranks: int = 1
    """As many as it may have."""
    chip: Chip | None = None
    """None for one of which no speed is known."""
    fused: bool = True
    """As in Load."""
    cores: int = 1
    """Of one rank."""
    fence: float = 0.0
    """Seconds around a collective: see speed.py."""

    def capacity(self, rank_bytes: int) -> int:
        """How many ranks that take so much fit."""
        return min(self.ranks, self.usable_bytes // max(1, rank_bytes))


def shares(hosts: Sequence[Node]) -> tuple[int, ...]:
    """Bytes that each rank may use, by rank: those on one machine share it."""
    count = Counter(node.id for node in hosts)
    return tuple(node.usable_bytes // count[node.id] for node in hosts)


def node_of(description: NodeDescription, ranks: int = 1) -> Node:
    """The node that an agent has described, for up to so many ranks."""
    chip = find_chip(description.chip)
    fused = description.blas.name in ("Metal", "CUDA")
    return Node(
        id=description.node_id,
        usable_bytes=description.usable_bytes,
        ranks=ranks,
        chip=chip if fused else None,
        fused=fused,
        cores=max(1, description.cores // max(1, ranks)),
        fence=METAL_FENCE if description.blas.name == "Metal" else 0.0,
    )


def check_demand(model: Model, demand: Demand) -> None:
    """Raise BadConfiguration for a demand that no machine could meet."""
    if demand.context < 1 or demand.sequences < 1:
        raise BadConfiguration(
            f"a context of {demand.context} for {demand.sequences} sequences: both are at least 1"
        )
    check_kv_bits(model.config, demand.kv_bits)


def rank_memory(
    model: Model, demand: Demand, world: int, kind: str, nodes: Sequence[Node]
) -> Memory:
    """What a rank takes, of the rank that takes most, with all sequences at their full context;
    stages of a pipeline are equal.

    As `room` would have it, which keeps a share of the caches free, and goes by the worst where
    machines differ in how they compute; so what is placed by this can be served with at least
    the context and sequences asked for.
    """
    engine = asked_engine(model, demand, kind, (0,) * world, nodes)
    return max(needed_memory(engine, asked_positions(demand)), key=lambda memory: memory.total)


def asked_positions(demand: Demand) -> int:
    """Of all caches together, with the share that is kept free."""
    return ceil(demand.context * demand.sequences / SHARE)


def asked_engine(
    model: Model, demand: Demand, kind: str, usable_bytes: tuple[int, ...], nodes: Sequence[Node]
) -> Engine:
    """What `demand` comes to on ranks that may use so much; stages are equal."""
    world = len(usable_bytes)
    return Engine(
        config=model.config,
        world=world,
        kind=kind,
        kv_bits=demand.kv_bits,
        weight_bytes=model.weights.by_rank(world, kind),
        usable_bytes=usable_bytes,
        sequences=demand.sequences,
        context=demand.context,
        fused=all(node.fused for node in nodes),
        cores=max((node.cores for node in nodes), default=1),
    )
