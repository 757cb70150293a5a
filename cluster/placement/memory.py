"""How much memory a sequence takes on each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.placement.shape import (
    head_size,
    kv_heads,
    language_config,
    model_type,
    number,
)

_BYTES = {"float32": 4, "float64": 4}
"""Of a cached value; every other type that models are computed in takes 2."""


def kv_bytes_per_token(config: Mapping[str, Any], world: int) -> int:
    """Bytes of KV cache that one position of one sequence takes on one of `world` ranks.

    Per attention layer: keys and values of the rank's KV heads; or, with latent attention
    (DeepSeek-V2, arXiv:2405.04434), the compressed KV and the rotary key, whole on every rank.
    An upper bound where windows or state-space layers keep less.
    """
    text = language_config(config)
    dtype = text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype")
    width = _BYTES.get(str(dtype or config.get("dtype")).removeprefix("torch."), 2)
    return _attention_layers(config) * _values_per_layer(config, world) * width


def _values_per_layer(config: Mapping[str, Any], world: int) -> int:
    text = language_config(config)
    latent = number(text, "kv_lora_rank")
    rotary = number(text, "qk_rope_head_dim")
    if model_type(config) == "deepseek_v2":
        # mlx-lm caches this one expanded, per head.
        head = number(text, "qk_nope_head_dim") + rotary + number(text, "v_head_dim")
        return _per_rank(number(text, "num_attention_heads"), world) * head
    if latent:
        return latent + rotary + number(text, "index_head_dim")
    return 2 * _per_rank(kv_heads(config)[1], world) * head_size(config)


def _per_rank(heads: int, world: int) -> int:
    """A rank holds at least one head: qwen3_5 copies them where there are too few."""
    return max(1, -(-heads // world)) if heads else 0


def _attention_layers(config: Mapping[str, Any]) -> int:
    """Layers whose cache grows with the sequence."""
    text = language_config(config)
    layers = number(text, "num_hidden_layers", "num_layers", "n_layers", "n_layer")
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum(1 for kind in kinds if kind != "linear_attention")
    if interval := number(text, "full_attention_interval"):
        return max(1, layers // interval)
    if model_type(config).startswith("longcat_flash"):
        return 2 * layers
    return layers
