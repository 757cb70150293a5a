"""How large a model's tensors are, from its config alone: for models whose weights are not here.

Names and shapes follow mlx-lm 0.32.2, so that weights.py can tell which rank holds what. A test
holds the sums against models that mlx-lm builds from the same configs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.core.errors import BadConfiguration
from cluster.placement.layers import Layer, layers
from cluster.placement.shape import (
    expert_count,
    head_size,
    is_latent,
    kv_heads,
    language_config,
    layer_count,
    mlp_width,
    model_type,
    number,
    ties_embedding,
    value_bytes,
)

Tensor = tuple[str, int]
"""Name of a module and the number of its weights."""

_GATED_ATTENTION = frozenset({"qwen3_5", "qwen3_5_moe", "qwen3_next", "prism_hadamard_qwen35"})
"""Model types whose queries come with a gate of the same size."""
_NEVER_QUANTIZED = ("norm", "conv1d")
_BITS = {"mxfp4": 4, "nvfp4": 4, "mxfp8": 8}
_GROUPS = {"mxfp4": 32, "nvfp4": 16, "mxfp8": 32}


def weight_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each tensor by its name, of the whole model; scales and biases of a quantized
    matrix are counted with it.

    Raises BadConfiguration when the config does not say how large the model is.
    """
    return {
        f"{name}.weight": int(count * _weight_bytes(config, name))
        for name, count in _tensors(config)
    }


def parameter_bytes(config: Mapping[str, Any]) -> float:
    """Bytes that one weight takes, where nothing else is said of its module."""
    return _weight_bytes(config, "mlp.experts")


def _tensors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    text = language_config(config)
    hidden, vocab = number(text, "hidden_size"), number(text, "vocab_size")
    if not (hidden and vocab and layer_count(config) and number(text, "num_attention_heads")):
        raise BadConfiguration(
            f"the config of this {model_type(config)} model does not say how large it is "
            "(hidden_size, vocab_size, num_hidden_layers, num_attention_heads)"
        )
    yield "model.embed_tokens", vocab * hidden
    if not ties_embedding(config):
        yield "lm_head", vocab * hidden
    yield "model.norm", hidden
    for index, layer in enumerate(layers(config)[: layer_count(config)]):
        place = f"model.layers.{index}"
        yield f"{place}.input_layernorm", 2 * hidden
        if layer is Layer.STATE and number(text, "linear_num_value_heads"):
            parts = _linear_attention(text, hidden)
        elif is_latent(config):
            parts = _latent_attention(text, hidden)
        else:
            parts = _attention(config, hidden)
        yield from ((f"{place}.{name}", count) for name, count in parts)
        yield from ((f"{place}.mlp.{name}", n) for name, n in _mlp(config, index, hidden))


def _attention(config: Mapping[str, Any], hidden: int) -> Iterator[Tensor]:
    text = language_config(config)
    size = head_size(config)
    queries = number(text, "num_attention_heads") * size
    keys = kv_heads(config)[1] * size
    gate = 2 if model_type(config) in _GATED_ATTENTION else 1
    yield "self_attn.q_proj", hidden * queries * gate
    yield "self_attn.k_proj", hidden * keys
    yield "self_attn.v_proj", hidden * keys
    yield "self_attn.o_proj", queries * hidden


def _latent_attention(text: Mapping[str, Any], hidden: int) -> Iterator[Tensor]:
    heads, latent = number(text, "num_attention_heads"), number(text, "kv_lora_rank")
    rotary, nope = number(text, "qk_rope_head_dim"), number(text, "qk_nope_head_dim")
    value, low = number(text, "v_head_dim"), number(text, "q_lora_rank")
    if low:
        yield "self_attn.q_a_proj", hidden * low
    yield "self_attn.q_b_proj", (low or hidden) * heads * (nope + rotary)
    yield "self_attn.kv_a_proj_with_mqa", hidden * (latent + rotary)
    yield "self_attn.kv_b_proj", latent * heads * (nope + value)
    yield "self_attn.o_proj", heads * value * hidden


def _linear_attention(text: Mapping[str, Any], hidden: int) -> Iterator[Tensor]:
    """Gated delta attention: qwen3_5, qwen3_next."""
    heads = number(text, "linear_num_value_heads")
    value = heads * number(text, "linear_value_head_dim")
    key = number(text, "linear_num_key_heads") * number(text, "linear_key_head_dim")
    yield "linear_attn.in_proj_qkv", hidden * (2 * key + value)
    yield "linear_attn.in_proj_z", hidden * value
    yield "linear_attn.in_proj_ba", hidden * 2 * heads
    yield "linear_attn.conv1d", number(text, "linear_conv_kernel_dim") * (2 * key + value)
    yield "linear_attn.out_proj", value * hidden


def _mlp(config: Mapping[str, Any], index: int, hidden: int) -> Iterator[Tensor]:
    text = language_config(config)
    names = ("gate_proj", "up_proj", "down_proj")
    if not _has_experts(config, index):
        width = number(text, "intermediate_size", "ffn_hidden_size")
        yield from ((name, hidden * width) for name in names)
        return
    experts, width = expert_count(config), mlp_width(config)
    yield from ((f"switch_mlp.{name}", experts * hidden * width) for name in names)
    yield "gate", experts * hidden
    shared = number(text, "shared_expert_intermediate_size")
    shared = shared or number(text, "n_shared_experts", "num_shared_experts") * width
    if shared:
        yield from ((f"shared_experts.{name}", hidden * shared) for name in names)


def _has_experts(config: Mapping[str, Any], index: int) -> bool:
    text = language_config(config)
    if not expert_count(config) or index < number(text, "first_k_dense_replace"):
        return False
    dense = text.get("mlp_only_layers")
    if isinstance(dense, list) and index in dense:
        return False
    step, every = number(text, "decoder_sparse_step"), number(text, "moe_layer_freq")
    return not ((step and (index + 1) % step) or (every and index % every))


def _weight_bytes(config: Mapping[str, Any], name: str) -> float:
    """Bytes of one weight of module `name`, with its share of scales and biases."""
    item = value_bytes(config)
    settings = config.get("quantization") or config.get("quantization_config")
    if not isinstance(settings, Mapping) or any(part in name for part in _NEVER_QUANTIZED):
        return item
    method = str(settings.get("mode") or settings.get("quant_method") or "affine")
    if method == "mxfp4" and "mode" not in settings and "experts" not in _as_experts(name):
        return item
    special = settings.get(name, settings.get(f"language_model.{name}", settings))
    if not isinstance(special, Mapping):
        return item if special is False else _packed(settings, method, item)
    return _packed({**settings, **special}, str(special.get("mode") or method), item)


def _as_experts(name: str) -> str:
    return name.replace("switch_mlp", "experts")


def _packed(settings: Mapping[str, Any], method: str, item: int) -> float:
    bits = number(settings, "bits") or _BITS.get(method, 0)
    if not bits:
        return item  # such as fp8, which mlx-lm unpacks
    group = number(settings, "group_size") or _GROUPS.get(method, 64)
    scales = 1 if method in _GROUPS else 2 * item
    return bits / 8 + scales / group
