"""How many positions fit into what a rank has beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.core.errors import BadConfiguration
from cluster.placement.memory import (
    CORE_SPEED,
    GPU_SPEED,
    Load,
    Memory,
    longest_chunk,
    position_bytes,
    predict,
    slot_bytes,
)

SHARE = 0.8
"""Of the positions that fit, so many are used: a batch of rows of unequal length takes more
room than its rows."""


@dataclass(frozen=True, slots=True)
class Room:
    """What caches may hold on each rank."""

    kv_tokens: int
    """Positions of all slots together, what slots take beside them included."""
    slot_positions: int
    """What a slot takes beside its positions, in positions."""
    position_bytes: int
    """Cache bytes of a position on the rank that keeps most."""
    rank_bytes: int
    """Peak of the rank that takes most, with caches full and a draft model, if there is one."""
    attended: int
    """Longest chunk times context: what one chunk's attention may take memory for. 0 where
    attention is fused and takes none."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is served, and how, as far as memory goes."""

    config: Mapping[str, Any]
    world: int
    kind: str
    """"single", "tensor" or "pipeline"."""
    kv_bits: int
    weight_bytes: int
    """Of the rank that holds most."""
    usable_bytes: int
    """Of the rank that has least, `draft_bytes` taken off rank 0."""
    sequences: int
    """Computed at the same time."""
    context: int
    """Of the model, in positions."""
    fused: bool
    """As in Load."""
    cores: int
    """Of the rank that has fewest."""
    draft_bytes: int = 0
    """What rank 0 takes for a draft model beside all this."""

    @property
    def speed(self) -> float:
        """Operations per second of attention."""
        return GPU_SPEED if self.fused else CORE_SPEED * self.cores

    def chunk(self, positions: int) -> int:
        """The longest prefill chunk, with caches of so many positions."""
        context = min(self.context, positions)
        return longest_chunk(self.config, self.world, self.kind, context, self.speed)


def room(engine: Engine, most: int, kv_bytes: int = 0) -> Room:
    """What caches may hold: `kv_bytes` on each rank if given, else what fits beside weights and
    working space, but no more than `most` positions.

    Raises BadConfiguration when not even one position fits, or not `kv_bytes`, with both
    numbers in GiB.
    """
    split = (engine.config, engine.world, engine.kind)
    position = position_bytes(*split, engine.kv_bits)
    slot = slot_bytes(*split)
    slot_positions = -(-slot // position) if position else 0
    if kv_bytes:
        tokens = kv_bytes // max(1, position)
        needed = needed_memory(engine, tokens).total
    else:
        fitting = _fitting(engine, int(most / SHARE))
        tokens = min(most, int(SHARE * fitting))
        needed = needed_memory(engine, 1).total
    if tokens <= slot_positions or needed > engine.usable_bytes:
        caches = f" and {gib(kv_bytes)} of KV cache" if kv_bytes else ""
        draft = f" beside the {gib(engine.draft_bytes)} of --draft-model"
        beside = draft if engine.draft_bytes else ""
        raise BadConfiguration(
            f"each of {engine.world} ranks needs {gib(max(needed, engine.weight_bytes))} for "
            f"{gib(engine.weight_bytes)} of weights{caches}, and one has only "
            f"{gib(max(0, engine.usable_bytes))}{beside}: add machines (--nodes), serve a smaller "
            "or quantized model, or give less to the cache (--kv-gb, --kv-bits, --sequences)"
        )
    attended = engine.chunk(tokens) * min(engine.context, tokens)
    unbounded = engine.fused and not engine.kv_bits
    rank_bytes = needed_memory(engine, tokens).total + engine.draft_bytes
    return Room(tokens, slot_positions, position, rank_bytes, 0 if unbounded else attended)


def needed_memory(engine: Engine, positions: int) -> Memory:
    """The peak of the rank that takes most, with caches of so many positions."""
    config, world, kind = engine.config, engine.world, engine.kind
    context = min(engine.context, positions)
    slots = min(engine.sequences, positions)
    load = Load(positions, slots, context, engine.chunk(positions), engine.fused)
    return predict(config, world, kind, engine.kv_bits, load, engine.weight_bytes)


def _fitting(engine: Engine, most: int) -> int:
    """The largest number of positions up to `most` that fits; 0 for none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if needed_memory(engine, middle).total <= engine.usable_bytes:
            low = middle
        else:
            high = middle
    return low


def gib(count: int) -> str:
    """Bytes for people to read."""
    return f"{count / 2**30:.2f} GiB"
