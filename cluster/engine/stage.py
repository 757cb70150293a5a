"""One stage of a pipeline: mlx-lm's pipelined model, and the order of what the stages exchange.

Rank `world - 1` has the first layers, rank 0 the last ones (mlx_lm/models/pipeline.py). A stage
receives, computes its layers, and sends; then an `all_gather` brings the last layer's output to
every rank, so that all compute the logits. What is sent is tied to the caches, the gathering to
the logits: a prompt's chunk whose logits nobody asks for is not waited for by the first stages,
which go on with the next chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList

from cluster.core.errors import CannotShard
from cluster.engine.group import Group
from cluster.engine.ragged import RaggedCache

if TYPE_CHECKING:
    from cluster.engine.cut import Place

ASKED = 16
"""Forward passes of at most so many positions are taken to be decoding, whose logits are asked
for."""


class Stage:
    """A pipelined model, to be called like the whole one.

    Nothing in a graph says which of two `recv` comes first, as they have no inputs. So each
    forward pass is handed to MLX before the next one is built; the streams keep the order.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """`tokens` int `[rows, T]`: logits `[rows, T, vocab]`, equal on all ranks."""
        logits: mx.array = self._model(tokens, cache=cache)
        arrays = list(_settled(cache))
        if tokens.shape[1] <= ASKED:
            arrays.append(logits)
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]
        return logits


def pipeline(model: Any, group: Group | Place, counts: Sequence[int] = ()) -> Stage:
    """Cut `model`, whose weights are not read yet, to this rank's layers: as many as `counts` has
    by rank, or without them as mlx-lm deals them, which is equally.

    Raises CannotShard when mlx-lm has no pipeline for it, a rank would get no layer, or it can't
    have these stages.
    """
    layers = getattr(getattr(model, "model", None), "pipeline", None)
    if layers is None:
        raise CannotShard(f"mlx-lm has no pipeline() for {type(model).__module__}")
    try:
        if counts:
            layers(group, split=list(counts))
        else:
            layers(group)
    except (AssertionError, ValueError, TypeError) as error:
        raise CannotShard(f"can't make {group.size()} stages of the model: {error}") from error
    return Stage(model)


def _settled(caches: list[Any]) -> Iterator[mx.array]:
    """All arrays of `caches`. A quantized cache's keys are a tuple again: `mx.depends`, which
    ties what is sent to them, makes a list of it."""
    for cache in caches:
        if isinstance(cache, RaggedCache):
            yield from cache.arrays
            continue
        if isinstance(cache, CacheList):
            yield from _settled(list(cache.caches))
            continue
        if isinstance(getattr(cache, "keys", None), list):
            cache.keys = tuple(cache.keys)
        yield from _flat(cache.state)


def _flat(value: Any) -> Iterator[mx.array]:
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
