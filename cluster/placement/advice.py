"""What would fit, where a model does not: each of it was tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cluster.core.errors import BadConfiguration
from cluster.placement.deals import unequal_deals
from cluster.placement.fit import Demand, Model, Node, rank_memory
from cluster.placement.kv import check_kv_bits
from cluster.placement.parameters import parameter_bytes, weight_sizes
from cluster.placement.room import gib
from cluster.placement.shard import kinds, obstacle

LEAST_CONTEXT = 512
"""A shorter one is of no use to anybody."""
_BITS = (8, 4)
"""Of weights and of cached values, what is tried, the more exact first."""
_MORE = 8
"""As many more ranks are tried."""


def what_would_fit(
    model: Model, demand: Demand, nodes: Sequence[Node], most_ranks: int
) -> tuple[str, ...]:
    """Changes that would make it fit, each by itself, in words. The last is always possible."""

    def fits(changed: Demand, other: Model = model) -> bool:
        return _fits(other, changed, nodes, most_ranks)

    found = [*_smaller(model, demand, fits)]
    for bits in _BITS:
        other = _quantized(model, bits)
        if other and fits(demand, other):
            found.append(f"the same model in {bits} bits")
            break
    return (*found, _more_nodes(model, demand, nodes))


def _smaller(model: Model, demand: Demand, fits: Callable[[Demand], bool]) -> list[str]:
    """Less of what is asked: bits of the cache, sequences, context."""
    found = []
    for bits in _BITS:
        if bits < (demand.kv_bits or 16) and _can_pack(model, bits):
            changed = replace(demand, kv_bits=bits)
            if fits(changed):
                found.append(f"--kv-bits {bits}")
                break
    sequences = _most(demand.sequences, lambda n: fits(replace(demand, sequences=n)))
    if sequences:
        found.append(f"{sequences} at once instead of {demand.sequences}")
    context = _most(demand.context, lambda n: fits(replace(demand, context=n)))
    context -= context % 256
    if context >= LEAST_CONTEXT and fits(replace(demand, context=context)):
        found.append(f"a context of {context} instead of {demand.context}")
    return found


def _most(end: int, fits: Callable[[int], bool]) -> int:
    """The largest number below `end` that fits; 0 for none."""
    low, high = 0, end
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _can_pack(model: Model, bits: int) -> bool:
    try:
        check_kv_bits(model.config, bits)
    except BadConfiguration:
        return False
    return True


def _quantized(model: Model, bits: int) -> Model | None:
    """The model with weights of so many bits; None where that is no less, or can't be told."""
    if bits / 8 >= parameter_bytes(model.config):
        return None
    config = {**model.config, "quantization": {"group_size": 64, "bits": bits}}
    try:
        return Model(config, weight_sizes(config))
    except BadConfiguration:
        return None


def _splits(model: Model, demand: Demand, most: int) -> list[tuple[int, str]]:
    """(world, kind) that the model can be split as."""
    every = (
        (world, kind) for world in range(1, most + 1) for kind in kinds(world, demand.parallel)
    )
    return [split for split in every if not obstacle(model.config, *split)]


def _fits(model: Model, demand: Demand, nodes: Sequence[Node], most_ranks: int) -> bool:
    most = min(most_ranks, sum(node.ranks for node in nodes))
    for world, kind in _splits(model, demand, most):
        need = rank_memory(model, demand, world, kind, nodes).total
        if sum(node.capacity(need) for node in nodes) >= world:
            return True
        if kind == "pipeline" and any(unequal_deals(model, demand, world, nodes)):
            return True
    return False


def _more_nodes(model: Model, demand: Demand, nodes: Sequence[Node]) -> str:
    """The fewest more machines, and of those the smallest, that would do."""
    most = sum(node.ranks for node in nodes) + _MORE
    options = []
    for world, kind in _splits(model, demand, most):
        need = rank_memory(model, demand, world, kind, nodes).total
        missing = world - sum(node.capacity(need) for node in nodes)
        if missing > 0:
            options.append((missing, need))
    count, need = min(options)
    several = "1 more node" if count == 1 else f"{count} more nodes"
    return f"{several} with {gib(need)} usable{'' if count == 1 else ' each'}"
