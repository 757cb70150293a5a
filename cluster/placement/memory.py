"""How much memory a model and its sequences take on each rank.

Held against what engines really take by a test, on a CPU. On Metal and CUDA, where attention
is fused and linear attention has a kernel, nothing was measured yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.core.config import LARGEST_CHUNK
from cluster.placement.kv import group_size
from cluster.placement.layers import Layer, layers, stages, window
from cluster.placement.shape import (
    experts_per_token,
    head_size,
    is_latent,
    kv_heads,
    language_config,
    mlp_width,
    model_type,
    number,
    value_bytes,
)

BLOCK = 256
"""Caches grow by so many positions (mlx_lm/models/cache.py)."""
LAST_CHUNK = 128
"""Logits are computed for at most so many positions of a prompt's last chunk."""
CHUNK_SECONDS = 0.5
"""A chunk takes at most so long, or is a short one."""
CORE_SPEED = 5e10
"""Operations per second of attention on one core of a CPU: measured on an AMD EPYC. A faster one
computes shorter chunks than it could, so that memory stays as planned (Room.attended)."""
GPU_SPEED = 2e12
"""The same of a GPU that computes attention on a quantized cache, which is not fused."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the rank that takes most."""

    weights: int
    kv: int
    """Caches of all slots."""
    working: int
    """What one launch needs beside them for a moment."""

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.kv + self.working


@dataclass(frozen=True, slots=True)
class Load:
    """What is computed at the same time."""

    positions: int
    """Of all slots together; of about equal length."""
    slots: int
    context: int
    """Of the longest sequence, in positions."""
    chunk: int
    """Longest prefill chunk, in positions."""
    fused: bool = False
    """Attention is computed without whole matrices of scores: Metal, CUDA."""

    @property
    def reserved(self) -> int:
        """Positions that caches have room for."""
        each = -(-self.positions // self.slots)
        return self.slots * (-(-each // BLOCK) * BLOCK)


def predict(
    config: Mapping[str, Any],
    world: int,
    kind: str,
    kv_bits: int,
    load: Load,
    weight_bytes: int,
) -> Memory:
    """The peak of the rank that takes most, of `world` ranks split as `kind` ("single",
    "tensor", or "pipeline" with equal stages); `weight_bytes` are that rank's."""
    weights = (weight_bytes,) * world
    found = predict_ranks(config, kind, kv_bits, load, weights)
    return max(found, key=lambda memory: memory.total)


def predict_ranks(
    config: Mapping[str, Any],
    kind: str,
    kv_bits: int,
    load: Load,
    weights: Sequence[int],
    counts: Sequence[int] = (),
) -> tuple[Memory, ...]:
    """The peak of each rank, which hold `weights` (bytes). `counts` as in `stages`."""
    world = len(weights)
    working = working_bytes(config, world, kind, kv_bits, load)
    caches = rank_cache_bytes(config, world, kind, kv_bits, counts)
    return tuple(
        Memory(weight, load.reserved * position + load.slots * slot, working)
        for weight, (position, slot) in zip(weights, caches, strict=True)
    )


def position_bytes(config: Mapping[str, Any], world: int, kind: str, kv_bits: int = 0) -> int:
    """Cache bytes of one position of one sequence, on the rank that keeps most."""
    return max(position for position, _ in rank_cache_bytes(config, world, kind, kv_bits))


def slot_bytes(config: Mapping[str, Any], world: int, kind: str) -> int:
    """Cache bytes of one sequence beside its positions, on the rank that keeps most."""
    return max(slot for _, slot in rank_cache_bytes(config, world, kind))


def rank_cache_bytes(
    config: Mapping[str, Any],
    world: int,
    kind: str,
    kv_bits: int = 0,
    counts: Sequence[int] = (),
) -> list[tuple[int, int]]:
    """What one sequence keeps on each rank: bytes of each position, and beside its positions.
    `counts` as in `stages`."""
    each = layer_cache_bytes(config, _split(world, kind), kv_bits)
    found = []
    for stage in stages(layers(config), world, kind, counts):
        kept = Counter(stage)
        positions = sum(count * each[layer][0] for layer, count in kept.items())
        found.append((positions, sum(count * each[layer][1] for layer, count in kept.items())))
    return found


def layer_cache_bytes(
    config: Mapping[str, Any], split: int, kv_bits: int
) -> dict[Layer, tuple[int, int]]:
    """Cache bytes of one layer of each kind, split over so many ranks: of a position, and of a
    sequence beside its positions.

    Full attention: keys and values of the rank's KV heads; or, with latent attention (DeepSeek-V2,
    arXiv:2405.04434), the compressed KV and the rotary key, whole on every rank. Beside positions:
    windows, which are never quantized, and states of linear attention.
    """
    return {
        Layer.FULL: (_layer_bytes(config, split, kv_bits), 0),
        Layer.WINDOW: (0, window(config) * _layer_bytes(config, split, 0)),
        Layer.STATE: (0, _state_bytes(config, split)),
    }


def working_bytes(
    config: Mapping[str, Any], world: int, kind: str, kv_bits: int, load: Load
) -> int:
    """What one launch takes beside weights and caches: a prefill chunk, or a decode iteration
    of all slots, whichever takes more. Of one layer, as a layer's arrays are free again when
    the next one needs its own."""
    split = _split(world, kind)
    kinds = set(layers(config))
    chunk, context = load.chunk, load.context
    item = value_bytes(config)
    parts = []
    if kinds & {Layer.FULL, Layer.WINDOW}:
        seen = context if Layer.FULL in kinds else min(context, window(config) + chunk)
        rows = 0 if load.fused and not kv_bits else chunk
        parts.append(_attention_bytes(config, split, kv_bits, rows, seen))
    if Layer.STATE in kinds and not load.fused:
        # Without a kernel, the recurrence keeps the state behind each position.
        parts.append(chunk * _recurrent_bytes(config, split))
    prefill = max(parts, default=0) + chunk * item * _activations(config, split)
    vocab = number(language_config(config), "vocab_size")
    last = min(chunk, LAST_CHUNK) * vocab * item
    # A batch that grows or is written to is copied, a layer's keys or values at a time.
    batch = load.reserved * _layer_bytes(config, split, kv_bits)
    decode = batch * 3 // 2 + load.slots * vocab * 4 * 2
    return max(prefill, last, decode)


def longest_chunk(
    config: Mapping[str, Any],
    world: int,
    kind: str,
    context: int,
    speed: float,
    counts: Sequence[int] = (),
) -> int:
    """Positions of the longest prefill chunk near the end of a `context`. Chunks are cut by time
    (scheduler/pace.py); this is what attention can do in one at `speed` operations per second.
    `counts` as in `stages`."""
    text = language_config(config)
    heads = _per_rank(number(text, "num_attention_heads"), _split(world, kind))
    layers_here = max(map(len, stages(layers(config), world, kind, counts)))
    each = 4 * max(1, context) * heads * max(1, head_size(config)) * layers_here
    return max(16, min(LARGEST_CHUNK, int(speed * CHUNK_SECONDS / max(1, each))))


def _attention_bytes(
    config: Mapping[str, Any], split: int, kv_bits: int, rows: int, context: int
) -> int:
    """Scores `[heads, rows, context]`, as often as they are held, a mask, and for each position
    of the context what its cache is copied or unpacked to."""
    item = value_bytes(config)
    heads = _per_rank(number(language_config(config), "num_attention_heads"), split)
    copies, unpacked = 1, 0
    if _unsplit(config):
        text = language_config(config)
        copies = 2  # rotary and other scores
        unpacked = heads * (number(text, "qk_nope_head_dim") + number(text, "v_head_dim")) * item
    elif model_type(config) == "gpt_oss":
        copies = 3  # one more column for sinks, put on and taken off
    grown = _layer_bytes(config, split, kv_bits)
    return context * (rows * (copies * heads * item + 1) + unpacked + grown)


def _activations(config: Mapping[str, Any], split: int) -> int:
    """Values of one position that a layer holds at once: some of the hidden size, queries, and
    the inner widths of the feed-forward part, of as many experts as are asked."""
    text = language_config(config)
    hidden = number(text, "hidden_size")
    heads = _per_rank(number(text, "num_attention_heads"), split)
    experts = experts_per_token(config)
    inner = 3 * -(-mlp_width(config) // split) * max(1, experts)
    return 2 * hidden + 2 * heads * head_size(config) + inner + experts * hidden


def _layer_bytes(config: Mapping[str, Any], split: int, bits: int) -> int:
    """Cache bytes of one position in one attention layer."""
    text = language_config(config)
    item = value_bytes(config)
    latent = number(text, "kv_lora_rank")
    rotary = number(text, "qk_rope_head_dim")
    if model_type(config) == "deepseek_v2":
        # mlx-lm caches this one expanded, per head.
        heads = _per_rank(number(text, "num_attention_heads"), split)
        nope, value = number(text, "qk_nope_head_dim"), number(text, "v_head_dim")
        return heads * _packed((nope + rotary, value), bits, item)
    if latent:
        return (latent + rotary + number(text, "index_head_dim")) * item
    heads = _per_rank(kv_heads(config)[1], split)
    size = head_size(config)
    return heads * _packed((size, number(text, "v_head_dim") or size), bits, item)


def _packed(widths: tuple[int, ...], bits: int, item: int) -> int:
    """Bytes of one head's key and value: as they are, or packed to `bits` with a scale and a
    bias for each group."""
    if not bits:
        return sum(widths) * item
    group = group_size(widths) or min(widths)
    return sum(width * bits // 8 + 2 * (width // group) * item for width in widths)


def _state_bytes(config: Mapping[str, Any], split: int) -> int:
    """Of a layer with gated delta attention (qwen3_5, qwen3_next): the latest inputs of its
    convolution, and its recurrent state in float32."""
    text = language_config(config)
    key = _per_rank(number(text, "linear_num_key_heads"), split)
    key *= number(text, "linear_key_head_dim")
    value = _per_rank(number(text, "linear_num_value_heads"), split)
    value *= number(text, "linear_value_head_dim")
    taps = max(0, number(text, "linear_conv_kernel_dim") - 1)
    return taps * (2 * key + value) * value_bytes(config) + _recurrent_bytes(config, split)


def _recurrent_bytes(config: Mapping[str, Any], split: int) -> int:
    text = language_config(config)
    heads = _per_rank(number(text, "linear_num_value_heads"), split)
    return heads * number(text, "linear_value_head_dim") * number(text, "linear_key_head_dim") * 4


def _unsplit(config: Mapping[str, Any]) -> bool:
    return is_latent(config) and model_type(config) != "deepseek_v2"


def _split(world: int, kind: str) -> int:
    """Over how many ranks a layer is split."""
    return 1 if kind == "pipeline" else world


def _per_rank(heads: int, split: int) -> int:
    """A rank holds at least one head: qwen3_5 copies them where there are too few."""
    return max(1, -(-heads // split)) if heads else 0
