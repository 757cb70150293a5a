"""Caches as a list of arrays and a layout in JSON, and back.

Classes come from a fixed table: nothing in a file names code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
)

_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        ArraysCache,
        CacheList,
        ChunkedKVCache,
        ConcatenateKVCache,
        KVCache,
        QuantizedKVCache,
        RotatingKVCache,
    )
}
_GROWING = (KVCache, QuantizedKVCache, ConcatenateKVCache)
"""Caches whose arrays may be longer than what they hold."""


def pack(caches: Sequence[Any]) -> tuple[str, list[mx.array]]:
    """The layout of `caches` and their arrays, cut to what they hold. Raises ValueError for a
    cache that can't be written."""
    arrays: list[mx.array] = []
    return json.dumps([_pack(cache, arrays) for cache in caches]), arrays


def unpack(layout: str, arrays: Sequence[mx.array]) -> list[Any]:
    """Caches of this layout. Raises ValueError when it does not fit the arrays."""
    try:
        return [_unpack(cache, arrays) for cache in json.loads(layout)]
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its caches make no sense ({error!r})") from error


def _pack(cache: Any, arrays: list[mx.array]) -> Any:
    name = type(cache).__name__
    if _CLASSES.get(name) is not type(cache):
        raise ValueError(f"a {name} can't be written to disk")
    if isinstance(cache, CacheList):
        return {"class": name, "caches": [_pack(part, arrays) for part in cache.caches]}
    length = cache.offset if isinstance(cache, _GROWING) else None
    return {"class": name, "state": _flatten(cache.state, arrays, length)}


def _flatten(value: Any, arrays: list[mx.array], length: int | None) -> Any:
    match value:
        case mx.array():
            # A node of its own even where nothing is cut: the caller hands it to another thread.
            own = mx.stop_gradient(value)
            arrays.append(own if length is None else own[..., :length, :])
            return {"array": len(arrays) - 1}
        case tuple():
            return [_flatten(item, arrays, length) for item in value]
        case list():
            return {"list": [_flatten(item, arrays, length) for item in value]}
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"a {type(value).__name__} can't be written to disk")


def _unpack(packed: Any, arrays: Sequence[mx.array]) -> Any:
    kind = _CLASSES[packed["class"]]
    if kind is CacheList:
        return CacheList(*(_unpack(part, arrays) for part in packed["caches"]))
    return kind.from_state(_restore(packed["state"], arrays))


def _restore(packed: Any, arrays: Sequence[mx.array]) -> Any:
    match packed:
        case {"array": int(place)}:
            return arrays[place]
        case {"list": list(items)}:
            return [_restore(item, arrays) for item in items]
        case list():
            return tuple(_restore(item, arrays) for item in packed)
        case None | bool() | int() | float() | str():
            return packed
    raise ValueError("its caches make no sense")
