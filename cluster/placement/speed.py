"""How fast a model will be, before anything has run: predictions, not measurements.

Decode, for one sequence alone, per token (docs/plan.md has sources and limits):

    tensor      T = a/N + b + 2L (t_link + t_fence)
    pipeline    T = a   + b +  N (t_link + t_fence)

with a the bytes that a token reads (of experts those that it asks, and its KV cache) over memory
bandwidth, b what is fixed for every layer, N ranks and L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.core.config import LARGEST_CHUNK
from cluster.placement.layers import Layer, layers
from cluster.placement.links import Link
from cluster.placement.memory import position_bytes, slot_bytes
from cluster.placement.parameters import parameter_bytes
from cluster.placement.shape import (
    head_size,
    language_config,
    layer_count,
    number,
    value_bytes,
)
from cluster.placement.weights import rank_weight_bytes, read_sizes

READ_EFFICIENCY = 0.8
"""Of the published bandwidth, what matrix products of one row reach."""
LAYER_SECONDS = 140e-6
"""Of one layer, however small: launching its kernels. These two and the latency of RDMA were
chosen together, so that the published figures in tests/unit/placement/test_speed.py follow:
Qwen3-235B in 8 bits on 1, 2 and 4 M3 Ultra, and llama.cpp's table of Apple chips."""
FLOP_EFFICIENCY = 0.62
"""Of the published operations, what prefill reaches: from llama.cpp's table too."""
SHORT = 4096
"""Positions of the sequence that speeds are predicted for, or its context if that is less."""
_CHUNK_SECONDS = (0.25, 0.5)
"""A prefill chunk computes for the first, or for as long as it reads weights up to the second
(scheduler/pace.py)."""

METAL_FENCE = 180e-6
"""Seconds that a GPU and a CPU take to meet around a collective (mlx issue 4438)."""
FAST_FENCE = 4e-6
"""The same with MLX_METAL_FAST_SYNCH=1, which can hang the GPU (mlx issues 3142 and 3830)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one rank has of its machine."""

    bandwidth: float
    """Bytes per second."""
    flops: float
    """Per second."""


@dataclass(frozen=True, slots=True)
class Speed:
    """A prediction, for one sequence alone."""

    decode: float
    """Tokens per second after SHORT positions."""
    decode_full: float
    """The same at the end of the context."""
    prefill: float
    """Prompt tokens per second over SHORT positions."""
    waiting: float
    """Share of a decoded token's time that ranks wait for each other, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Work:
    """What each rank has to do; of a pipeline an equal stage, unless there are `parts`."""

    world: int
    kind: str
    """"single", "tensor" or "pipeline"."""
    layers: int
    read_bytes: float
    """Weights read for a decoded token."""
    weight_bytes: float
    """Weights read for a prefill chunk: all."""
    position_bytes: float
    slot_bytes: float
    """Cache read beside positions: windows, states."""
    flops: float
    """Of one prompt token, attention left out."""
    attention_flops: float
    """The same for each position that it sees."""
    hidden_bytes: int
    """Of one position between layers."""
    parts: tuple[float, ...] = ()
    """By rank, how much of the above is its own where stages are unequal; else empty."""

    def staged(self, counts: Sequence[int]) -> Work:
        """The same with so many layers on each rank; empty for equal stages."""
        parts = tuple(count * self.world / self.layers for count in counts)
        return replace(self, parts=parts)


def work(
    config: Mapping[str, Any], sizes: Mapping[str, int], world: int, kind: str, kv_bits: int
) -> Work:
    """What `world` ranks do for the model of `config`, whose tensors have `sizes` (bytes)."""
    split = kind if kind == "tensor" else "single"
    shares = 1 if kind == "tensor" else world
    ranks = world if kind == "tensor" else 1
    text = language_config(config)
    read = read_sizes(config, sizes)
    heads = number(text, "num_attention_heads") * head_size(config)
    attention = 4 * heads * layers(config).count(Layer.FULL)
    return Work(
        world=world,
        kind=kind,
        layers=layer_count(config),
        read_bytes=rank_weight_bytes(config, read, ranks, split) / shares,
        weight_bytes=rank_weight_bytes(config, sizes, ranks, split) / shares,
        position_bytes=position_bytes(config, ranks, split, kv_bits) / shares,
        slot_bytes=slot_bytes(config, ranks, split) / shares,
        flops=2 * sum(read.values()) / parameter_bytes(config) / world,
        attention_flops=attention / world,
        hidden_bytes=number(text, "hidden_size") * value_bytes(config),
    )


def predict_speed(
    todo: Work, rates: Sequence[Rate], link: Link, fence: float, context: int
) -> Speed:
    """The speed of ranks with `rates`, by rank, that a `link` joins and that wait `fence`
    seconds around each collective, for sequences of up to `context` positions."""
    short = max(1, min(SHORT, context))
    waits = waiting(todo, link, fence)
    seconds = _decode_seconds(todo, rates, short) + waits
    full = _decode_seconds(todo, rates, max(1, context)) + waits
    prefill = _prefill(todo, rates, link, waits, short)
    return Speed(1 / seconds, 1 / full, prefill, waits / seconds)


def waiting(todo: Work, link: Link, fence: float) -> float:
    """Seconds that one forward pass waits for messages, however small they are."""
    if todo.world == 1:
        return 0.0
    if todo.kind == "pipeline":
        return todo.world * (link.latency + fence)
    return 2 * todo.layers * (link.seconds(todo.world) + fence)


def _together(todo: Work, seconds: Iterable[float]) -> float:
    """Of each rank's seconds: shards compute at the same time, and the slowest counts; stages one
    after the other."""
    if todo.kind != "pipeline":
        return max(seconds)
    if not todo.parts:
        return sum(seconds)
    return sum(part * each for part, each in zip(todo.parts, seconds, strict=True))


def _decode_seconds(todo: Work, rates: Sequence[Rate], positions: int) -> float:
    read = todo.read_bytes + todo.slot_bytes + positions * todo.position_bytes
    reading = _together(todo, (read / (READ_EFFICIENCY * rate.bandwidth) for rate in rates))
    return reading + todo.layers * LAYER_SECONDS


def _prefill(todo: Work, rates: Sequence[Rate], link: Link, waits: float, positions: int) -> float:
    """Tokens per second of a chunk in the middle of so many positions. Of a chunk, reading the
    weights and computing add up, as where tokens ask different experts."""
    each = todo.flops + todo.attention_flops * positions / 2
    token = _together(todo, (each / (FLOP_EFFICIENCY * rate.flops) for rate in rates))
    whole = todo.weight_bytes / READ_EFFICIENCY
    reading = _together(todo, (whole / rate.bandwidth for rate in rates))
    fixed = reading + todo.layers * LAYER_SECONDS + waits
    least, most = _CHUNK_SECONDS
    chunk = min(most, max(least, fixed)) / token
    chunk = max(1.0, min(chunk, float(LARGEST_CHUNK), float(positions)))
    return chunk / (fixed + chunk * (token + _message_seconds(todo, link)))


def _message_seconds(todo: Work, link: Link) -> float:
    """Seconds that one position's messages take beyond their latency. An all_sum moves each
    byte to and fro, less what a rank has itself."""
    if todo.world == 1:
        return 0.0
    times = 4 * todo.layers * (todo.world - 1) / todo.world
    if todo.kind == "pipeline":
        times = todo.world
    return times * todo.hidden_bytes / link.throughput
