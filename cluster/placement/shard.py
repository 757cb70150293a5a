"""Can a model be split over N ranks? Decided from its config, before any weight is read.

Follows mlx-lm 0.32.2: `Model.shard` in mlx_lm/models, and mlx.nn.layers.distributed, which
splits the rows of q, k, v, gate and up projections and the columns of o and down projections.
A test holds the list of model types against the installed mlx-lm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.core.errors import CannotShard
from cluster.placement.shape import (
    group_sizes,
    head_size,
    head_sizes,
    hidden_sizes,
    language_config,
    model_type,
    number,
    repeats_kv_heads,
)

SHARDABLE = frozenset({
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v41", "deepseek_v41_text",
    "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "gpt_oss", "iquestcoder",
    "iquestloopcoder", "joyai_llm_flash", "kimi_k2", "kimi_k25", "kimi_k3", "llama",
    "longcat_flash", "longcat_flash_ngram", "minimax", "minimax_m2", "minimax_m3_vl",
    "ministral3", "mistral", "mistral4", "muse_spark", "prism_hadamard_qwen35", "qwen2", "qwen3",
    "qwen3_5", "qwen3_5_moe", "qwen3_moe", "solar_open", "step3p5", "xverse",
})  # fmt: skip
"""Model types whose class in mlx-lm has shard(); other names of the same classes included."""

LARGEST_WORLD = 64
"""As many ranks as are tried when possible world sizes are listed."""


def check_shard(config: Mapping[str, Any], world: int) -> None:
    """Raise CannotShard when the model of `config` can't be split over `world` ranks.

    The message names the model type, the dimension, both numbers and the world sizes that
    would work. A world of 1 always works.
    """
    kind = model_type(config)
    if world < 1:
        raise CannotShard(f"a model can't be split over {world} ranks: 1 is the least")
    if world == 1:
        return
    if kind not in SHARDABLE:
        raise CannotShard(
            f"this {kind} model can't be split over {world} ranks: mlx-lm has no tensor-parallel "
            f"version of {kind}; it can be served on 1 rank only"
        )
    obstacle = next(_obstacles(config, world), None)
    if obstacle is not None:
        raise CannotShard(
            f"this {kind} model can't be split over {world} ranks: {obstacle}; it can be served "
            f"on {_in_words(possible_worlds(config))}"
        )


def possible_worlds(config: Mapping[str, Any], largest: int = LARGEST_WORLD) -> list[int]:
    """World sizes up to `largest` over which the model can be split; 1 is always among them."""
    if model_type(config) not in SHARDABLE:
        return [1]
    return [1, *(n for n in range(2, largest + 1) if next(_obstacles(config, n), None) is None)]


def _obstacles(config: Mapping[str, Any], world: int) -> Iterator[str]:
    """What stands against splitting over `world` ranks, in words."""
    for name, size in head_sizes(config):
        copied = name == "num_key_value_heads" and repeats_kv_heads(config) and world % size == 0
        if size % world and not copied:
            yield f"{name} is {size}, which {world} does not divide"
    for name, size in hidden_sizes(config):
        if size % world:
            yield f"{name} is {size}, which {world} does not divide"
        yield from _cut_groups(name, size, world, group_sizes(config, "down_proj"))
    text = language_config(config)
    heads, width = number(text, "num_attention_heads"), number(text, "v_head_dim")
    size = heads * (width or head_size(config))
    name = "num_attention_heads x head size"
    yield from _cut_groups(name, size, world, group_sizes(config, "o_proj"))


def _cut_groups(name: str, size: int, world: int, groups: frozenset[int]) -> Iterator[str]:
    """A quantized matrix that is cut along its input must be cut between two groups."""
    for group in sorted(groups):
        if size % world == 0 and (size // world) % group:
            yield (
                f"{name} is {size}, so each rank would hold {size // world} of it, which is not "
                f"a multiple of the quantization's group size {group}"
            )


def _in_words(worlds: list[int]) -> str:
    if worlds == [1]:
        return "1 rank only"
    return f"{', '.join(map(str, worlds[:-1]))} or {worlds[-1]} ranks"
