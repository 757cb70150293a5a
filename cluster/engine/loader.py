"""From a model folder to an evaluated shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    CacheList,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    make_prompt_cache,
)
from mlx_lm.utils import load_model

from cluster.core.errors import CannotShard, ModelUnavailable
from cluster.engine.group import Group

Progress = Callable[[float], None]
"""Told the fraction of the weights that is in memory, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose weights are in memory."""

    model: Any
    """`model(tokens int [rows, T], cache=caches) -> logits [rows, T, vocab]`."""
    trimmable: bool
    """Every layer's cache can be cut at any position."""
    weight_bytes: int
    """Of this rank's shard."""


def load(folder: Path, group: Group | None, progress: Progress) -> LoadedModel:
    """Read `folder`, keep this rank's shard, and evaluate it layer by layer.

    No code from the folder is run. Raises ModelUnavailable when the files can't be read or
    mlx-lm does not know the architecture, and CannotShard when it can't be split over the
    group after all (`placement.shard` should have said so before the group was formed).
    """
    try:
        model, _ = load_model(folder, lazy=True)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise ModelUnavailable(f"can't load the model in {folder}: {error}") from error
    model.eval()
    if group is not None:
        if not hasattr(model, "shard"):
            raise CannotShard(f"mlx-lm has no shard() for {type(model).__module__}")
        try:
            model.shard(group)
        except (AssertionError, ValueError) as error:
            raise CannotShard(f"can't split {folder} over {group.size()} ranks: {error}") from error
    weight_bytes = _evaluate(model, progress)
    return LoadedModel(model, is_trimmable(model), weight_bytes)


def is_trimmable(model: Any) -> bool:
    """True when a fresh prompt cache of `model` has only caches that can be cut anywhere.

    A list of known types, as `is_trimmable()` of a sliding window's cache answers for this
    moment only.
    """

    def cuttable(cache: Any) -> bool:
        if isinstance(cache, CacheList):
            return all(cuttable(part) for part in cache.caches)
        return type(cache) in (KVCache, ConcatenateKVCache, QuantizedKVCache)

    return all(cuttable(cache) for cache in make_prompt_cache(model))


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
