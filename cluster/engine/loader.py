"""From a model folder to an evaluated shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from cluster.core.cluster import ShardPlan
from cluster.core.errors import CannotShard, ModelUnavailable
from cluster.engine.caches import CacheKind, inspect
from cluster.engine.group import Group
from cluster.engine.stage import pipeline

Progress = Callable[[float], None]
"""Told the fraction of the weights that is in memory, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose weights are in memory: the whole of it, or this rank's shard or stage."""

    model: Any
    """`model(tokens int [rows, T], cache=caches) -> logits [rows, T, vocab]`."""
    caches: CacheKind
    weight_bytes: int
    """Of this rank."""

    def new_caches(self) -> list[Any]:
        """Empty caches for one sequence, one for each of this rank's layers."""
        return self.caches.new()

    @property
    def trimmable(self) -> bool:
        """Every layer's cache can be cut at any position."""
        return self.caches.trimmable


def load(
    folder: Path, plan: ShardPlan, group: Group | None, progress: Progress, kv_bits: int = 0
) -> LoadedModel:
    """Read `folder`, keep this rank's part by `plan`, and evaluate it layer by layer.

    No code from the folder is run, and no weight of another rank is read. Raises
    ModelUnavailable when the files can't be read or mlx-lm does not know the architecture,
    CannotShard when it can't be split over the group after all (`placement.shard` should have
    said so before the group was formed), and BadConfiguration when the caches can't have
    `kv_bits` bits.
    """
    try:
        model, _ = load_model(folder, lazy=True)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise ModelUnavailable(f"can't load the model in {folder}: {error}") from error
    model.eval()
    forward: Any = model
    if group is not None and plan.kind == "pipeline":
        forward = pipeline(model, group)
    elif group is not None:
        _shard(model, group)
    kind = inspect(model, kv_bits)
    return LoadedModel(forward, kind, _evaluate(model, progress))


def _shard(model: Any, group: Group) -> None:
    if not hasattr(model, "shard"):
        raise CannotShard(f"mlx-lm has no shard() for {type(model).__module__}")
    try:
        model.shard(group)
    except (AssertionError, ValueError) as error:
        raise CannotShard(f"can't split it over {group.size()} ranks: {error}") from error


def _evaluate(model: Any, progress: Progress) -> int:
    """Bring all weights into memory, layer by layer so that the peak stays low; bytes."""
    total = sum(array.nbytes for array in _arrays(model))
    done = 0
    progress(0.0)
    for layer in getattr(model, "layers", None) or ():
        if not hasattr(layer, "parameters"):
            continue
        arrays = _arrays(layer)
        mx.eval(arrays)
        done += sum(array.nbytes for array in arrays)
        progress(min(1.0, done / max(1, total)))
    mx.eval(model.parameters())
    progress(1.0)
    return total


def _arrays(module: Any) -> list[mx.array]:
    flat: Any = tree_flatten(module.parameters())
    return [array for _, array in flat]
