"""Can a model be split over N ranks? Decided from its config, before any weight is read.

Follows mlx-lm 0.32.2: `Model.shard` in mlx_lm/models, and mlx.nn.layers.distributed, which
splits the rows of q, k, v, gate and up projections and the columns of o and down projections;
and mlx_lm/models/pipeline.py. A test holds the lists of model types against the installed mlx-lm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.core.errors import BadConfiguration, CannotShard
from cluster.placement.shape import (
    group_sizes,
    head_size,
    head_sizes,
    hidden_sizes,
    language_config,
    layer_count,
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

PIPELINABLE = frozenset({
    "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v41",
    "deepseek_v41_text", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "joyai_llm_flash", "kimi_k2",
    "kimi_k25", "kimi_k3", "minimax_m3_vl", "ministral3", "mistral4", "muse_spark",
    "prism_hadamard_qwen35", "qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_moe", "qwen3_next",
    "solar_open",
})  # fmt: skip
"""Model types whose class in mlx-lm has `model.pipeline()`."""

EQUAL_STAGES = frozenset({"bailing_hybrid", "kimi_k3"})
"""Of these, model types whose pipeline() sets the stages itself, or takes few of those it is
told."""

PARALLEL = ("auto", "tensor", "pipeline")
LARGEST_WORLD = 64
"""As many ranks as are tried when possible world sizes are listed."""


def check_plan(config: Mapping[str, Any], world: int, parallel: str = "auto") -> str:
    """How the model of `config` is split over `world` ranks: "single" for a world of 1, else
    "tensor" or "pipeline"; with "auto" the first of them that works.

    Raises CannotShard when it can't be: the message names the model type, the dimension, both
    numbers and the world sizes that would work. A world of 1 always works. Raises
    BadConfiguration for a `parallel` that is none of PARALLEL.
    """
    name = model_type(config)
    if world < 1:
        raise CannotShard(f"a model can't be split over {world} ranks: 1 is the least")
    if world == 1:
        return "single"
    reasons = []
    for kind in kinds(world, parallel):
        if not (reason := obstacle(config, world, kind)):
            return kind
        reasons.append(reason)
    raise CannotShard(
        f"this {name} model can't be split over {world} ranks: {', and '.join(reasons)}; it can "
        f"be served on {_in_words(possible_worlds(config, parallel=parallel))}"
    )


def possible_worlds(
    config: Mapping[str, Any], largest: int = LARGEST_WORLD, parallel: str = "auto"
) -> list[int]:
    """World sizes up to `largest` over which the model can be split; 1 is always among them."""

    def works(world: int) -> bool:
        return any(not obstacle(config, world, kind) for kind in kinds(world, parallel))

    return [world for world in range(1, largest + 1) if works(world)]


def kinds(world: int, parallel: str = "auto") -> tuple[str, ...]:
    """The kinds of split that `parallel` allows for a world, the preferred one first. Raises
    BadConfiguration for a `parallel` that is none of PARALLEL."""
    if parallel not in PARALLEL:
        raise BadConfiguration(f"parallel {parallel}: it is one of {', '.join(PARALLEL)}")
    if world == 1:
        return ("single",)
    return PARALLEL[1:] if parallel == "auto" else (parallel,)


def obstacle(config: Mapping[str, Any], world: int, kind: str) -> str:
    """The first thing that stands against splitting over `world` ranks as `kind`, in words;
    empty for none, as always for "single"."""
    return "" if kind == "single" else next(_obstacles(config, world, kind), "")


def has_unequal_stages(config: Mapping[str, Any]) -> bool:
    """The stages of its pipeline may have any number of layers."""
    return model_type(config) in PIPELINABLE - EQUAL_STAGES


def _obstacles(config: Mapping[str, Any], world: int, kind: str) -> Iterator[str]:
    """What stands against splitting over `world` ranks, in words."""
    return (_stage_obstacles if kind == "pipeline" else _shard_obstacles)(config, world)


def _stage_obstacles(config: Mapping[str, Any], world: int) -> Iterator[str]:
    name = model_type(config)
    if name not in PIPELINABLE:
        yield f"mlx-lm has no pipeline of {name}"
    elif (layers := layer_count(config)) < world:
        yield f"it has {layers} layers, too few for {world} stages of a pipeline"


def _shard_obstacles(config: Mapping[str, Any], world: int) -> Iterator[str]:
    name = model_type(config)
    if name not in SHARDABLE:
        yield f"mlx-lm has no tensor-parallel version of {name}"
        return
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
    if len(worlds) > 2 and worlds == list(range(1, len(worlds) + 1)):
        return f"1 to {worlds[-1]} ranks"
    return f"{', '.join(map(str, worlds[:-1]))} or {worlds[-1]} ranks"
