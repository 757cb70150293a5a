"""How many bytes of a model's weights each rank holds, and a token reads, by tensors' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.placement.layers import stages
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


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a model's weights, as far as splitting it goes.

    As stored: a checkpoint in a type that is unpacked when loaded takes more.
    """

    by_layer: tuple[int, ...]
    rest: int
    """Of no layer: embedding, norm, output. In a pipeline every rank holds them."""
    shared: int
    """Of all this, what tensor parallelism splits; the other part is whole on every rank."""

    def by_rank(self, world: int, kind: str, counts: Sequence[int] = ()) -> tuple[int, ...]:
        """Bytes on each rank when split over `world` ranks as `kind` ("single", "tensor" or
        "pipeline", whose stages have `counts` layers; empty for equal ones)."""
        if kind == "pipeline":
            parts = stages(self.by_layer, world, kind, counts)
            return tuple(self.rest + sum(part) for part in parts)
        whole = self.rest + sum(self.by_layer)
        if kind == "tensor":
            whole += -(-self.shared // world) - self.shared
        return (whole,) * world


def sum_weights(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Weights:
    """Of tensors with `sizes` (bytes by name)."""
    by_layer = [0] * layer_count(config)
    rest = shared = 0
    for name, size in sizes.items():
        found = _LAYER.search(name)
        if _LEFT_OUT.search(name) or (found and int(found[1]) >= len(by_layer)):
            continue
        if found:
            by_layer[int(found[1])] += size
        else:
            rest += size
        if not _is_whole(config, name):
            shared += size
    return Weights(tuple(by_layer), rest, shared)


def rank_weight_bytes(
    config: Mapping[str, Any], sizes: Mapping[str, int], world: int, kind: str
) -> int:
    """Bytes on the rank that holds most, of tensors with `sizes` (bytes by name), when split
    over `world` ranks as `kind` ("single", "tensor", or "pipeline" with equal stages)."""
    return max(sum_weights(config, sizes).by_rank(world, kind))


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
