"""Can a model's KV cache be quantized? Decided from its config, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.core.errors import BadConfiguration
from cluster.placement.shape import head_size, is_latent, model_type

BITS = (4, 8)
GROUP_SIZES = (64, 32)
"""Values that share a scale and a bias, as MLX can quantize them; the first that fits is used."""

_SINKS = frozenset({"gpt_oss", "mimo_v2_flash"})
"""Attention sinks: mlx-lm's quantized attention has none (mlx_lm/models/base.py)."""


def group_size(widths: Sequence[int]) -> int:
    """Group size for keys and values of so many values per head; 0 when none divides them."""
    return next((size for size in GROUP_SIZES if all(w % size == 0 for w in widths)), 0)


def check_kv_bits(config: Mapping[str, Any], bits: int) -> None:
    """Raise BadConfiguration when the cache of the model of `config` can't have `bits` bits.

    Says what is known from a config; an engine tries it before it reads weights.
    """
    if bits == 0:
        return
    kind = model_type(config)
    if bits not in BITS:
        raise BadConfiguration(f"a cache of {bits} bits: only 8 and 4 are possible")
    reason = ""
    if kind in _SINKS:
        reason = "its attention has sinks, which mlx-lm can't do on a quantized cache"
    elif is_latent(config) and kind != "deepseek_v2":
        reason = "its latent attention reads the cache by itself, and it is small already"
    elif (size := head_size(config)) and group_size([size]) == 0:
        reason = f"its head size is {size}, which is no multiple of {GROUP_SIZES[-1]}"
    if reason:
        raise BadConfiguration(
            f"the KV cache of this {kind} model can't be quantized: {reason}; leave --kv-bits out"
        )
