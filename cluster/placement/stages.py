"""How many layers each stage of a pipeline gets, where machines are unequal."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate

from cluster.placement.layers import layers
from cluster.placement.memory import layer_cache_bytes, working_bytes
from cluster.placement.room import Engine
from cluster.placement.weights import Weights

_MOST = 1 << 32
"""Positions up to which more room is looked for."""
_NEAR = 256
"""That part of the most positions may be missed."""


def deal_layers(engine: Engine, weights: Weights, least: int = 1) -> Engine | None:
    """The pipeline `engine` with the stages that leave most positions to its tightest rank; None
    when no stages leave it `least`, or there are fewer layers than ranks.

    Each rank has the weights that are of no layer, and working space; what is left of it goes to
    layers that follow each other, each with its weights and its share of the caches. The most
    positions for which there are such stages are found by halving.
    """
    low, counts = least, _filled(engine, weights, least)
    if counts is None:
        return None
    high = 2 * low
    while high < _MOST and (more := _filled(engine, weights, high)):
        low, counts, high = high, more, 2 * high
    while high - low > 1 + low // _NEAR:
        middle = (low + high) // 2
        if more := _filled(engine, weights, middle):
            low, counts = middle, more
        else:
            high = middle
    held = weights.by_rank(engine.world, "pipeline", counts)
    return replace(engine, kind="pipeline", layers=counts, weight_bytes=held)


def _filled(engine: Engine, weights: Weights, positions: int) -> tuple[int, ...] | None:
    """Layers by rank, with which all ranks hold caches of so many positions; None for none. The
    last rank has the first layers, and every rank at least one."""
    load = engine.load(positions)
    caches = layer_cache_bytes(engine.config, 1, engine.kv_bits)
    working = working_bytes(engine.config, engine.world, "pipeline", engine.kv_bits, load)
    needs = [
        weight + load.reserved * caches[layer][0] + load.slots * caches[layer][1]
        for weight, layer in zip(weights.by_layer, layers(engine.config), strict=False)
    ]
    free = [usable - weights.rest - working for usable in engine.usable_bytes]
    before = list(accumulate(needs, initial=0))
    # Where a stage may begin, from the last rank to the first.
    begins = [{0}]
    for room in reversed(free):
        ends: set[int] = set()
        for begin in begins[-1]:
            ends.update(range(begin + 1, bisect_right(before, before[begin] + room)))
        begins.append(ends)
    end, counts = len(needs), []
    if end not in begins.pop():
        return None
    for room in free:
        begin = max(b for b in begins.pop() if b < end and before[end] - before[b] <= room)
        counts.append(end - begin)
        end = begin
    return tuple(counts)
