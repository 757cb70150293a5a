"""How many bytes of a model's weights each rank holds, and a token reads, by tensors' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cluster.placement.layers import layers, stages
from cluster.placement.shape import (
    expert_count,
    experts_per_token,
    layer_count,
    model_type,
    ties_embedding,
)

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_WHOLE = re.compile(
    r"embed_tokens|wte\b|norm|mlp\.gate\.|router|kv_a_proj|q_a_proj|lm_head|rotary|indexer"
)
"""Tensors that every rank of a tensor-parallel group holds whole."""
_SHARDED_HEAD = frozenset({"qwen3_5", "qwen3_5_moe", "prism_hadamard_qwen35", "muse_spark"})
"""Model types whose output layer is split as well."""
_LEFT_OUT = re.compile(r"vision|visual|^mtp\.|\.mtp\.|audio|inv_freq")
"""Parts that mlx-lm does not load: other inputs than text, drafts of more than one token."""
_EXPERTS = re.compile(r"switch_mlp|\.experts\b")
_EMBEDDING = re.compile(r"embed_tokens|\bwte\b")


def rank_weight_bytes(
    config: Mapping[str, Any], sizes: Mapping[str, int], world: int, kind: str
) -> int:
    """Bytes on the rank that holds most, of tensors with `sizes` (bytes by name), when split
    over `world` ranks as `kind` ("single", "tensor" or "pipeline").

    As stored: a checkpoint in a type that is unpacked when loaded takes more.
    """
    count = layer_count(config)
    by_layer = [0] * count
    everywhere = shared = 0
    for name, size in sizes.items():
        found = _LAYER.search(name)
        if _LEFT_OUT.search(name) or (found and int(found[1]) >= count):
            continue
        if kind == "pipeline" and found:
            by_layer[int(found[1])] += size
        elif kind == "tensor" and not _is_whole(config, name):
            shared += size
        else:
            everywhere += size
    if kind == "pipeline":
        ends = _stage_ends(config, world)
        return everywhere + max(sum(by_layer[start:end]) for start, end in ends)
    return everywhere + -(-shared // world)


def read_sizes(config: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """What of tensors with `sizes` (bytes by name) is read for one token of one sequence: of the
    experts only those that a token asks, and of the embedding a row, unless it is the output
    layer too."""
    tied = ties_embedding(config)
    asked, experts = experts_per_token(config), max(1, expert_count(config))
    read = {}
    for name, size in sizes.items():
        if _EXPERTS.search(name):
            read[name] = size * (asked or experts) // experts
        elif tied or not _EMBEDDING.search(name):
            read[name] = size
    return read


def _is_whole(config: Mapping[str, Any], name: str) -> bool:
    if "lm_head" in name and model_type(config) in _SHARDED_HEAD:
        return False
    return _WHOLE.search(name) is not None


def _stage_ends(config: Mapping[str, Any], world: int) -> list[tuple[int, int]]:
    """(first layer, layer behind the last) of each rank."""
    parts = stages(layers(config)[: layer_count(config)], world, "pipeline")
    ends, end = [], layer_count(config)
    for part in parts:
        ends.append((end - len(part), end))
        end -= len(part)
    return ends
