"""What caches a model's layers take: plain or quantized, and how many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from cluster.core.errors import BadConfiguration
from cluster.placement.kv import group_size


@dataclass(frozen=True, slots=True)
class CacheKind:
    """How the caches of one model are made, and what they take on this rank.

    `model` is mlx-lm's; its weights need not have been read.
    """

    model: Any
    bits: int
    """Of a cached value: 8 or 4, or 0 for the model's own type."""
    groups: tuple[int, ...]
    """Values that share a scale, for each plain cache in order; empty when not quantized."""
    trimmable: bool
    """Every layer's cache can be cut at any position."""
    position_bytes: int
    """Of one position of one sequence, over all layers of this rank."""
    slot_bytes: int
    """Of one sequence, at most, beside its positions: windows, states."""

    def new(self) -> list[Any]:
        """Empty caches for one sequence, one for each of this rank's layers."""
        caches: list[Any] = make_prompt_cache(self.model)
        if not self.bits:
            return caches
        groups = iter(self.groups)
        return [_quantized(cache, self.bits, groups) for cache in caches]


def inspect(model: Any, bits: int) -> CacheKind:
    """Find out what caches `model` takes, by building a forward pass that is never computed.

    Raises BadConfiguration when the caches can't be quantized
    to `bits`, or the model's attention can't read quantized ones.
    """
    plain = make_prompt_cache(model)
    model(mx.zeros((1, 2), dtype=mx.int32), cache=plain)
    parts = list(_parts(plain))
    groups = tuple(group_size(_widths(part)) for part in parts if type(part) is KVCache)
    if bits:
        _check_quantized(model, bits, groups)
    position = sum(_position_bytes(part, bits) for part in parts)
    slot = sum(_slot_bytes(part) for part in parts)
    growing = (KVCache, ConcatenateKVCache)
    trimmable = all(type(part) in growing for part in parts)
    return CacheKind(model, bits, groups if bits else (), trimmable, position, slot)


def _check_quantized(model: Any, bits: int, groups: tuple[int, ...]) -> None:
    name = type(model).__module__.rpartition(".")[2]
    if not groups:
        raise BadConfiguration(f"a {name} model has no cache that could be quantized")
    if 0 in groups:
        raise BadConfiguration(
            f"the cache of this {name} model can't be quantized: its head size is no multiple of 32"
        )
    counted = iter(groups)
    caches = [_quantized(cache, bits, counted) for cache in make_prompt_cache(model)]
    try:
        for width in (2, 1):  # prefill and decode may differ
            model(mx.zeros((1, width), dtype=mx.int32), cache=caches)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise BadConfiguration(
            f"the attention of {name} can't read a quantized cache ({error}): leave --kv-bits out"
        ) from error


def _quantized(cache: Any, bits: int, groups: Iterator[int]) -> Any:
    """`cache`, empty, with quantized ones in place of plain ones."""
    if isinstance(cache, CacheList):
        return CacheList(*(_quantized(part, bits, groups) for part in cache.caches))
    if type(cache) is KVCache:
        return QuantizedKVCache(group_size=next(groups), bits=bits)
    return cache


def _parts(caches: list[Any]) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _parts(list(cache.caches))
        else:
            yield cache


def _widths(cache: Any) -> tuple[int, int]:
    """Values per head of keys and of values."""
    return cache.keys.shape[-1], cache.values.shape[-1]


def _position_bytes(cache: Any, bits: int) -> int:
    if type(cache) not in (KVCache, ConcatenateKVCache):
        return 0
    total = 0
    for array in (cache.keys, cache.values):
        heads, width, item = array.shape[1], array.shape[-1], array.dtype.size
        if bits and type(cache) is KVCache:
            # Packed values, then a scale and a bias for each group.
            groups = width // group_size(_widths(cache))
            total += heads * (width * bits // 8 + 2 * groups * item)
        else:
            total += heads * width * item
    return total


def _slot_bytes(cache: Any) -> int:
    match cache:
        case RotatingKVCache():
            return _columns(cache, cache.max_size)
        case ChunkedKVCache():
            return _columns(cache, cache.chunk_size)
        case ArraysCache():
            return sum(array.nbytes for array in cache.cache if array is not None)
    return 0


def _columns(cache: Any, count: int) -> int:
    """Bytes of `count` positions."""
    per = sum(a.shape[1] * a.shape[-1] * a.dtype.size for a in (cache.keys, cache.values))
    return int(count * per)
