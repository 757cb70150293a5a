"""How many positions fit into what a rank has beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.core.errors import DoesNotFit
from cluster.placement.memory import (
    CORE_SPEED,
    GPU_SPEED,
    Load,
    Memory,
    longest_chunk,
    predict_ranks,
    rank_cache_bytes,
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
    weight_bytes: tuple[int, ...]
    """By rank."""
    usable_bytes: tuple[int, ...]
    """By rank, `draft_bytes` taken off rank 0."""
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
    layers: tuple[int, ...] = ()
    """As in ShardPlan."""

    @property
    def speed(self) -> float:
        """Operations per second of attention."""
        return GPU_SPEED if self.fused else CORE_SPEED * self.cores

    def chunk(self, positions: int) -> int:
        """The longest prefill chunk, with caches of so many positions."""
        context = min(self.context, positions)
        return longest_chunk(self.config, self.world, self.kind, context, self.speed, self.layers)

    def load(self, positions: int) -> Load:
        """What is computed at the same time, with caches of so many positions."""
        slots, context = min(self.sequences, positions), min(self.context, positions)
        return Load(positions, slots, context, self.chunk(positions), self.fused)


def room(engine: Engine, most: int, kv_bytes: int = 0) -> Room:
    """What caches may hold: `kv_bytes` on each rank if given, else what fits beside weights and
    working space, but no more than `most` positions.

    Raises DoesNotFit when not even one position fits, or not `kv_bytes`, with both numbers in GiB.
    """
    split = (engine.config, engine.world, engine.kind)
    caches = rank_cache_bytes(*split, engine.kv_bits, engine.layers)
    position = max(each for each, _ in caches)
    slot_positions = max(
        (-(-slot // each) if each else -(-slot // max(1, position)) for each, slot in caches)
    )
    if kv_bytes:
        tokens = kv_bytes // max(1, position)
        fits = _fits(engine, tokens)
    else:
        tokens = min(most, int(SHARE * most_positions(engine, int(most / SHARE))))
        fits = _fits(engine, 1)
    if tokens <= slot_positions or not fits:
        raise DoesNotFit(_too_little(engine, tokens if kv_bytes else 1, kv_bytes))
    attended = engine.chunk(tokens) * min(engine.context, tokens)
    unbounded = engine.fused and not engine.kv_bits
    peaks = [memory.total for memory in needed_memory(engine, tokens)]
    peaks[0] += engine.draft_bytes
    return Room(tokens, slot_positions, position, max(peaks), 0 if unbounded else attended)


def needed_memory(engine: Engine, positions: int) -> tuple[Memory, ...]:
    """The peak of each rank, with caches of so many positions."""
    load, weights = engine.load(positions), engine.weight_bytes
    return predict_ranks(engine.config, engine.kind, engine.kv_bits, load, weights, engine.layers)


def most_positions(engine: Engine, most: int) -> int:
    """The largest number of positions up to `most` that fits on every rank; 0 for none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(engine, middle):
            low = middle
        else:
            high = middle
    return low


def _fits(engine: Engine, positions: int) -> bool:
    needed = needed_memory(engine, positions)
    pairs = zip(needed, engine.usable_bytes, strict=True)
    return all(memory.total <= usable for memory, usable in pairs)


def _too_little(engine: Engine, positions: int, kv_bytes: int) -> str:
    """What the rank that lacks most needs and has."""
    ranks = zip(needed_memory(engine, positions), engine.usable_bytes, strict=True)
    tightest, usable = max(ranks, key=lambda rank: rank[0].total - rank[1])
    who = "one" if engine.layers else "each"
    caches = f" and {gib(kv_bytes)} of KV cache" if kv_bytes else ""
    draft = f" beside the {gib(engine.draft_bytes)} of --draft-model"
    beside = draft if engine.draft_bytes else ""
    return (
        f"{who} of {engine.world} ranks needs {gib(tightest.total)} for "
        f"{gib(tightest.weights)} of weights{caches}, and one has only "
        f"{gib(max(0, usable))}{beside}: add machines (--nodes), serve a smaller or quantized "
        "model, or give less to the cache (--kv-gb, --kv-bits, --sequences)"
    )


def gib(count: int) -> str:
    """Bytes for people to read."""
    return f"{count / 2**30:.2f} GiB"
