"""How many layers each stage of a pipeline gets, where machines are unequal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.placement.layers import layers
from cluster.placement.memory import layer_cache_bytes, working_bytes
from cluster.placement.room import Engine
from cluster.placement.weights import Weights

_MOST = 1 << 32
"""Positions up to which more room is looked for."""


def deal_layers(engine: Engine, weights: Weights, least: int = 1) -> Engine | None:
    """The pipeline `engine` with the stages that leave most positions to its tightest rank; None
    when no stages leave it `least`, or there are fewer layers than ranks.

    Each rank has the weights that are of no layer, and working space; what is left of it goes to
    layers that follow each other, each with its weights and its share of the caches. Whether
    there are stages for so many positions is found by filling one rank after the other, and the
    most positions by halving.
    """
    low, counts = least, _filled(engine, weights, least)
    if counts is None:
        return None
    high = 2 * low
    while high < _MOST and (more := _filled(engine, weights, high)):
        low, counts, high = high, more, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if more := _filled(engine, weights, middle):
            low, counts = middle, more
        else:
            high = middle
    held = weights.by_rank(engine.world, "pipeline", counts)
    return replace(engine, kind="pipeline", layers=counts, weight_bytes=held)


def _filled(engine: Engine, weights: Weights, positions: int) -> tuple[int, ...] | None:
    """Layers by rank, with which all ranks hold caches of so many positions: the first ones on
    the last rank, each taking as many as it can, and leaving one to every other. None when the
    last ones are too many for rank 0."""
    load = engine.load(positions)
    caches = layer_cache_bytes(engine.config, 1, engine.kv_bits)
    working = working_bytes(engine.config, engine.world, "pipeline", engine.kv_bits, load)
    needs = [
        weight + load.reserved * caches[layer][0] + load.slots * caches[layer][1]
        for weight, layer in zip(weights.by_layer, layers(engine.config), strict=False)
    ]
    counts: list[int] = []
    for rank in reversed(range(engine.world)):
        free = engine.usable_bytes[rank] - weights.rest - working
        taken = _fit(needs[: len(needs) - rank], free)
        if not taken:
            return None
        counts.append(taken)
        needs = needs[taken:]
    return tuple(reversed(counts)) if not needs else None


def _fit(needs: Sequence[int], free: int) -> int:
    """How many of `needs`, from the first on, go into `free`."""
    for count, need in enumerate(needs):
        free -= need
        if free < 0:
            return count
    return len(needs)
