"""The layers of a model, by the kind of cache they keep, and which rank has which.

Follows `make_cache` of the model files of mlx-lm 0.32.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from cluster.placement.shape import language_config, layer_count, model_type, number

WINDOWED = frozenset({
    "afmoe", "baichuan_m1", "cohere2", "exaone4", "exaone_moe", "gear", "gemma3", "gemma3_text",
    "gemma3n", "gemma4", "gemma4_text", "gemma4_unified", "gpt_oss", "iquestcoder", "laguna",
    "llama", "mellum", "mimo_v2_flash", "ministral3", "mistral", "muse_glimmer", "muse_spark",
    "olmo3", "plamo3", "spark2_5", "step3p5", "xverse",
})  # fmt: skip
"""Model types that keep only the window of a layer with sliding attention; others keep all."""

_INTERVAL = frozenset({"qwen3_5", "qwen3_5_moe", "qwen3_next", "prism_hadamard_qwen35"})
"""One layer in `full_attention_interval`, the last of them, has attention; 4 where unsaid."""


class Layer(StrEnum):
    """What a layer keeps of a sequence."""

    FULL = "full"
    """Keys and values of all positions."""
    WINDOW = "window"
    """Of the latest positions only."""
    STATE = "state"
    """A state of fixed size."""


def layers(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The kind of each layer, first to last. What a config does not tell counts as FULL."""
    text, kind = language_config(config), model_type(config)
    count = layer_count(config)
    if kind in _INTERVAL:
        every = number(text, "full_attention_interval") or 4
        return tuple(Layer.STATE if (i + 1) % every else Layer.FULL for i in range(count))
    if kind.startswith("longcat_flash"):
        return (Layer.FULL,) * (2 * count)
    names = text.get("layer_types")
    windowed = kind in WINDOWED
    if isinstance(names, list) and names:
        return tuple(_named(str(name), windowed) for name in names)
    every = number(text, "sliding_window_pattern")
    if windowed and kind == "gpt_oss":
        every = 2
    if windowed and every:
        return tuple(Layer.WINDOW if (i + 1) % every else Layer.FULL for i in range(count))
    if every := number(text, "full_attention_interval"):
        return tuple(Layer.STATE if (i + 1) % every else Layer.FULL for i in range(count))
    return (Layer.FULL,) * count


T = TypeVar("T")


def stages(
    whole: Sequence[T], world: int, kind: str, counts: Sequence[int] = ()
) -> list[Sequence[T]]:
    """What each rank has of `whole`, which has an item for each layer: all of it, or in a pipeline
    its stage. Rank 0 has the last layers (mlx_lm/models/pipeline.py); `counts` are the layers of
    each stage by rank, empty for equal ones, where low ranks have one more if need be."""
    if kind != "pipeline":
        return [whole] * world
    if not counts:
        base, extra = divmod(len(whole), world)
        counts = [base + (rank < extra) for rank in range(world)]
    starts = [sum(counts[rank + 1 :]) for rank in range(world)]
    return [whole[start : start + n] for start, n in zip(starts, counts, strict=True)]


def window(config: Mapping[str, Any]) -> int:
    """Positions that a layer with sliding attention keeps."""
    text = language_config(config)
    return number(text, "sliding_window", "sliding_window_size") or 4096


def _named(name: str, windowed: bool) -> Layer:
    if name.startswith("linear"):
        return Layer.STATE
    return Layer.WINDOW if windowed and name.startswith("sliding") else Layer.FULL
