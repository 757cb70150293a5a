"""Rows that are computed in one forward pass, by the kind of their caches.

A single row works on its slot's own caches, without padding or mask, as plain mlx-lm does. Rows
with plain caches share ragged ones (ragged.py). Others (windows, states) share mlx-lm's, which
pad on the left and are copied whole when rows come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.models.cache import CacheList

from cluster.engine.ragged import RaggedRows, raggable
from cluster.engine.slots import Caches, states


class Bundle(Protocol):
    """Some rows' caches."""

    def begin(self, lengths: Sequence[int], width: int) -> Caches:
        """The caches to give to the model, which will write `width` positions behind `lengths`,
        one for each row."""
        ...

    def leave(self, row: int, length: int) -> Caches:
        """Take a row out: its first `length` positions as caches of its own. Unless it was the
        first, the last row takes its place."""
        ...

    def compact(self) -> None:
        """Some rows have left: give back what is not worth keeping."""
        ...

    def cut(self, excess: int) -> None:
        """Positions beyond the rows' lengths were written, `excess` to a single row."""
        ...

    def states(self) -> list[mx.array]:
        """Every array of the caches."""
        ...


class Single:
    """One row on its slot's own caches."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def begin(self, lengths: Sequence[int], width: int) -> Caches:
        """See Bundle."""
        return self._caches

    def leave(self, row: int, length: int) -> Caches:
        """See Bundle."""
        return self._caches

    def compact(self) -> None:
        """See Bundle. There is nothing to give back."""

    def cut(self, excess: int) -> None:
        """See Bundle."""
        for cache in self._caches:
            cache.trim(excess)

    def states(self) -> list[mx.array]:
        """See Bundle."""
        return states(self._caches)


class Ragged:
    """Rows with plain or quantized caches."""

    def __init__(self, rows: Sequence[Caches], lengths: Sequence[int], more: int = 0) -> None:
        self._rows = RaggedRows(rows[0])
        self._rows.reserve(len(rows) + more, max(lengths))
        for caches, length in zip(rows, lengths, strict=True):
            self.join(caches, length)

    def join(self, caches: Caches, length: int, more: int = 0) -> int:
        """Add a row and return its place; `more` rows are about to follow it."""
        return self._rows.join(caches, length, more)

    def begin(self, lengths: Sequence[int], width: int) -> Caches:
        """See Bundle."""
        self._rows.begin(lengths, width)
        return self._rows.caches

    def leave(self, row: int, length: int) -> Caches:
        """See Bundle."""
        return self._rows.leave(row, length)

    def compact(self) -> None:
        """See Bundle."""
        self._rows.compact()

    def cut(self, excess: int) -> None:
        """See Bundle. Nothing to do: what is behind a row's length is never looked at."""

    def states(self) -> list[mx.array]:
        """See Bundle."""
        return self._rows.states()


class Merged:
    """Rows whose caches mlx-lm can merge; nothing is ever drafted for them."""

    def __init__(self, rows: Sequence[Caches], lengths: Sequence[int]) -> None:
        layers: list[list[Any]] = [list(layer) for layer in zip(*rows, strict=True)]
        self._caches: Caches = [type(layer[0]).merge(layer) for layer in layers]
        self._count = len(rows)

    def join(self, caches: Caches, length: int, more: int = 0) -> int:
        """Add a row and return its place; nothing is gained by knowing of those that follow."""
        for mine, theirs in zip(self._caches, caches, strict=True):
            mine.extend(type(theirs).merge([theirs]))
        self._count += 1
        return self._count - 1

    def begin(self, lengths: Sequence[int], width: int) -> Caches:
        """See Bundle."""
        return self._caches

    def leave(self, row: int, length: int) -> Caches:
        """See Bundle."""
        caches = [cache.extract(row) for cache in self._caches]
        self._count -= 1
        order = list(range(1, self._count + 1)) if row == 0 else list(range(self._count))
        if row not in (0, self._count):
            order[row] = self._count
        if order:
            for cache in self._caches:
                cache.filter(mx.array(order))
        return caches

    def compact(self) -> None:
        """See Bundle. mlx-lm has copied what stays already."""

    def cut(self, excess: int) -> None:
        """See Bundle."""
        raise AssertionError("a merged batch can't be cut")

    def states(self) -> list[mx.array]:
        """See Bundle."""
        return states(self._caches)


def bundle_of(
    rows: Sequence[Caches], lengths: Sequence[int], more: int = 0
) -> Ragged | Merged | None:
    """The bundle of two or more rows, which `more` are about to join; None when they can only be
    computed one by one."""
    if all(map(raggable, rows)):
        return Ragged(rows, lengths, more)
    if all(_mergeable(cache) for caches in rows for cache in caches):
        return Merged(rows, lengths)
    return None


def _mergeable(cache: Any) -> bool:
    """True when mlx-lm can make one batch of such caches."""
    if isinstance(cache, CacheList):
        return all(map(_mergeable, cache.caches))
    return hasattr(type(cache), "merge")
