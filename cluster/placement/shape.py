"""Sizes in a model's config, under the names that mlx-lm's model files give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Size = tuple[str, int]
"""Name in the config and value."""

_NESTED = ("text_config", "language_config", "llm_config")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_QWEN_3_5 = frozenset({"qwen3_5", "qwen3_5_moe", "prism_hadamard_qwen35"})
_SHARED_KV = frozenset({"deepseek_v41", "deepseek_v41_text"})
"""One latent KV for all heads, kept whole on every rank, though no kv_lora_rank says so."""

_NESTED_HEADS = {
    "minimax_m3_vl": ("sparse_attention_config", "sparse_num_index_heads"),
    "kimi_k3": ("linear_attn_config", "num_heads"),
}


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the language model: nested in multimodal models."""
    for name in _NESTED:
        part = config.get(name)
        if part is not None and isinstance(part, Mapping):
            return part
    return config


def model_type(config: Mapping[str, Any]) -> str:
    """The name under which mlx-lm looks up the model."""
    return str(config.get("model_type", "unknown"))


def number(config: Mapping[str, Any], *names: str) -> int:
    """The first of `names` that is a positive whole number, else 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def is_latent(config: Mapping[str, Any]) -> bool:
    """Multi-head latent attention: the cache belongs to no head, so it can't be split."""
    text = language_config(config)
    return number(text, "kv_lora_rank") > 0 or model_type(config) in _SHARED_KV


def repeats_kv_heads(config: Mapping[str, Any]) -> bool:
    """qwen3_5 copies its KV heads where there are more ranks than heads."""
    return model_type(config) in _QWEN_3_5


def kv_heads(config: Mapping[str, Any]) -> Size:
    """KV heads of the whole model; as many as query heads where the config names none."""
    text = language_config(config)
    for name in ("num_key_value_heads", "num_attention_groups"):
        if value := number(text, name):
            return name, value
    return "num_attention_heads", number(text, "num_attention_heads")


def layer_count(config: Mapping[str, Any]) -> int:
    """Layers of the whole model."""
    return number(language_config(config), "num_hidden_layers", "num_layers", "n_layers", "n_layer")


def head_size(config: Mapping[str, Any]) -> int:
    """Values per head of keys and of queries."""
    text = language_config(config)
    heads = number(text, "num_attention_heads")
    return number(text, "head_dim") or (number(text, "hidden_size") // heads if heads else 0)


def head_sizes(config: Mapping[str, Any]) -> Iterator[Size]:
    """Everything that is dealt out to ranks by whole heads, groups or vocabulary rows."""
    text, kind = language_config(config), model_type(config)
    names = ["num_attention_heads"]
    if kind in _QWEN_3_5:
        names += ["linear_num_key_heads", "linear_num_value_heads"]
    if kind in _SHARED_KV:
        names += ["o_groups"]
    if kind == "muse_spark" or (kind in _QWEN_3_5 and not text.get("tie_word_embeddings")):
        names += ["vocab_size"]
    for name in names:
        if value := number(text, name):
            yield name, value
    if not is_latent(config):
        yield kv_heads(config)
    section, name = _NESTED_HEADS.get(kind, ("", ""))
    nested = text.get(section)
    if isinstance(nested, Mapping) and (value := number(nested, name)):
        yield name, value


def hidden_sizes(config: Mapping[str, Any]) -> Iterator[Size]:
    """Inner widths of every feed-forward part: dense, experts, shared experts."""
    text = language_config(config)
    names = [
        "ffn_hidden_size", "dense_intermediate_size", "moe_intermediate_size",
        "expert_ffn_hidden_size", "shared_expert_intermediate_size", "share_expert_dim",
    ]  # fmt: skip
    if _has_dense_layers(config):
        names.insert(0, "intermediate_size")
    for name in names:
        if value := number(text, name):
            yield name, value


def group_sizes(config: Mapping[str, Any], module: str) -> frozenset[int]:
    """Group sizes in which the input of modules named `module` is quantized; empty for none.

    `quantization` in config.json has one group size for all and others for single modules.
    """
    found: set[int] = set()
    for key in ("quantization", "quantization_config"):
        settings = config.get(key)
        if not isinstance(settings, Mapping):
            continue
        method = settings.get("quant_method")
        default = number(settings, "group_size") or {"mxfp4": 32}.get(str(method), 0)
        found.add(default)
        for path, special in settings.items():
            if isinstance(special, Mapping) and path.endswith(module):
                found.add(number(special, "group_size"))
        break
    return frozenset(found - {0})


def _has_dense_layers(config: Mapping[str, Any]) -> bool:
    """True when `intermediate_size` is the width of a part that exists.

    Mixtures of experts keep the name in their config even when every layer has experts.
    """
    text = language_config(config)
    if not (number(text, *_EXPERTS) and number(text, "moe_intermediate_size")):
        return True
    if model_type(config) in _QWEN_3_5:
        return False
    if "first_k_dense_replace" in text:
        return number(text, "first_k_dense_replace") > 0 or number(text, "moe_layer_freq") > 1
    if "mlp_only_layers" in text or "decoder_sparse_step" in text:
        return bool(text.get("mlp_only_layers")) or number(text, "decoder_sparse_step") > 1
    return True


def ties_embedding(config: Mapping[str, Any]) -> bool:
    """True when the embedding is the output layer too. Configs of Gemma and Cohere leave it out:
    it is the default there."""
    for part in (language_config(config), config):
        if isinstance(tied := part.get("tie_word_embeddings"), bool):
            return tied
    return model_type(config).startswith(("gemma", "cohere"))


def value_bytes(config: Mapping[str, Any]) -> int:
    """Of a computed or cached value: 4 in float32, else 2."""
    text = language_config(config)
    dtype = text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype")
    name = str(dtype or config.get("dtype")).removeprefix("torch.")
    return 4 if name in ("float32", "float64") else 2


def expert_count(config: Mapping[str, Any]) -> int:
    """Experts of a layer that has them, shared ones left out; 0 without experts."""
    return number(language_config(config), *_EXPERTS)


def experts_per_token(config: Mapping[str, Any]) -> int:
    """Experts that one position asks; 0 without experts."""
    text = language_config(config)
    if not expert_count(config):
        return 0
    return number(text, "num_experts_per_tok", "moe_topk", "num_experts_per_token", "moe_k")


def mlp_width(config: Mapping[str, Any]) -> int:
    """Inner width of a feed-forward part: of one expert where there are experts."""
    text = language_config(config)
    names = ("moe_intermediate_size", "expert_ffn_hidden_size") if experts_per_token(config) else ()
    return number(text, *names, "intermediate_size", "ffn_hidden_size")
