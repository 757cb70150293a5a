"""A batch's KV caches with a length for each row.

mlx-lm's batch cache pads its rows on the left, so that all end at the same column, and copies
the whole batch whenever a row joins or leaves. Here a row begins at column 0 and ends where it
ends: joining and leaving copy one row, rows may advance by different numbers of positions, and
cutting a row is a change of a number. Rows leave at the front, as most do, without another row
being moved.

Columns behind a row's length hold leftovers. They are never looked at: the mask ends at each
query's own position, and the next position written overwrites them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, QuantizedKVCache

BLOCK = 256
"""Columns are added in multiples of this, and of an eighth of what there is, so that a growing
batch is copied ever more rarely."""
ROOMY = 1 << 14
"""Positions of all rows up to which their number is doubled when there are too few; beyond, where
room is dear, it grows by a quarter."""
SMALL = 1 << 12
"""Positions of all rows up to which a batch keeps the room of rows that have left."""


class Layout:
    """Where the next columns of each row go; the same for all layers."""

    def __init__(self) -> None:
        self.first = 0
        self.rows = 0
        """Rows `first` to `first + rows - 1` of the arrays are in use."""
        self.end = 0
        """Columns in use once these are written: of the longest row."""
        self.offset = mx.zeros((0,), dtype=mx.int32)
        """Length of each row, int32 `[rows]`; what rotary embeddings count from."""
        self.columns = mx.zeros((0, 0), dtype=mx.int32)
        """Where each new position goes, int32 `[rows, width]`."""
        self._masks: dict[int | None, mx.array] = {}

    def begin(self, first: int, lengths: Sequence[int], width: int) -> None:
        """`width` positions are about to be written to each row, from row `first` on."""
        self.first = first
        self.rows = len(lengths)
        self.end = max(lengths) + width
        self.offset = mx.array(list(lengths), dtype=mx.int32)
        self.columns = self.offset[:, None] + mx.arange(width, dtype=mx.int32)[None]
        self._masks.clear()

    def mask(self, window: int | None) -> mx.array:
        """Which columns each query sees, bool `[rows, 1, width, end]`."""
        if window not in self._masks:
            column = mx.arange(self.end, dtype=mx.int32)
            query = self.columns[:, None, :, None]
            mask = column <= query
            if window is not None:
                mask = mask & (column > query - window)
            self._masks[window] = mask
        return self._masks[window]


class RaggedCache:
    """One layer's keys and values of all rows, as an mlx-lm model asks for its cache.

    `arrays` are `[capacity, heads, columns, size]` each: keys, values.
    """

    def __init__(self, layout: Layout, arrays: list[mx.array]) -> None:
        self._layout = layout
        self.arrays = arrays

    @property
    def offset(self) -> mx.array:
        """See Layout.offset."""
        return self._layout.offset

    @property
    def keys(self) -> mx.array:
        """Pipelined models tie what they send to it."""
        return self.arrays[0]

    @keys.setter
    def keys(self, keys: mx.array) -> None:
        self.arrays[0] = keys

    def make_mask(
        self, width: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """See Layout.mask; always an array, since no two rows need be alike."""
        return self._layout.mask(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Write `[rows, heads, width, size]` and return all columns in use."""
        used = self._write([keys, values])
        return used[0], used[1]

    def _write(self, new: list[mx.array]) -> list[mx.array]:
        layout = self._layout
        first, rows, width = layout.first, *layout.columns.shape
        used = []
        for i, value in enumerate(new):
            array = self.arrays[i]
            if array.shape[0] == rows:  # no row is free: the faster way
                columns = mx.broadcast_to(
                    layout.columns[:, None, :, None], (rows, array.shape[1], width, 1)
                )
                columns = mx.broadcast_to(columns, (rows, array.shape[1], width, array.shape[3]))
                array = mx.put_along_axis(array, columns, value, axis=2)
            else:
                places = mx.arange(first, first + rows)[:, None]
                array[places, :, layout.columns] = value.transpose(0, 2, 1, 3)
            self.arrays[i] = array
            used.append(array[first : first + rows, :, : layout.end])
        return used


class QuantizedRaggedCache(RaggedCache):
    """The same with quantized values: `arrays` are keys (packed, scales, biases), then values."""

    def __init__(self, layout: Layout, arrays: list[mx.array], group_size: int, bits: int) -> None:
        super().__init__(layout, arrays)
        self.group_size = group_size
        self.bits = bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """As in RaggedCache; returns two tuples of packed values, scales and biases."""
        quantized = [
            *mx.quantize(keys, group_size=self.group_size, bits=self.bits),
            *mx.quantize(values, group_size=self.group_size, bits=self.bits),
        ]
        used = self._write(quantized)
        return tuple(used[:3]), tuple(used[3:])


def plain(caches: Sequence[Any]) -> bool:
    """True for caches of keys and values by position, quantized or not."""
    return all(type(cache) in (KVCache, QuantizedKVCache) for cache in caches)


def raggable(caches: Sequence[Any]) -> bool:
    """True when rows with such caches can be batched here: plain and not empty."""
    return plain(caches) and all(cache.keys is not None for cache in caches)


class RaggedRows:
    """The rows of one batch in all layers. Those in use lie side by side; before and behind them,
    rows are free."""

    def __init__(self, caches: Sequence[Any]) -> None:
        """Empty, for rows with caches like these."""
        self._layout = Layout()
        self.caches: list[Any] = [_like(cache, self._layout) for cache in caches]
        """One for each layer, as the model takes them."""
        self._capacity = 0
        self._columns = 0
        self._first = 0
        self._rows = 0
        self._end = 0
        """Columns that hold anything, at most."""
        self._copies: list[mx.array] = []
        """Of rows that have left since the last `compact`; perhaps not computed yet."""

    def begin(self, lengths: Sequence[int], width: int) -> None:
        """The model is about to write `width` positions behind `lengths`, one for each row."""
        self._end = max(lengths) + width
        self.reserve(self._rows, self._end)
        self._layout.begin(self._first, lengths, width)

    def join(self, caches: Sequence[Any], length: int, more: int = 0) -> int:
        """Add a row with what `caches` hold of the first `length` positions, and return its
        place among the rows: 0 or the last. `more` rows are about to follow it."""
        self.reserve(self._rows + 1 + more, length)
        self._end = max(self._end, length)
        # Computed before anything is written: an array that something still waits to read can't
        # be written in place, and would be copied whole.
        mx.eval(self.states())
        behind = self._first + self._rows < self._capacity
        place = self._rows if behind else 0
        self._first -= not behind
        row = self._first + place
        for mine, theirs in zip(self.caches, caches, strict=True):
            for array, source in zip(mine.arrays, _arrays(theirs), strict=True):
                array[row : row + 1, :, :length] = source[..., :length, :]
        self._rows += 1
        return place

    def leave(self, place: int, length: int) -> list[Any]:
        """Take a row out: its `length` positions as caches of its own. Unless it was the first,
        the last row takes its place."""
        row = self._first + place
        caches = [_alone(cache, row, length) for cache in self.caches]
        self._copies += [array for cache in caches for array in _arrays(cache)]
        self._rows -= 1
        last = self._first + self._rows
        if place == 0:
            self._first += 1
        elif row != last:
            arrays = self.states()
            # As in join: nothing may still wait to read what is written.
            moved = [mx.contiguous(a[last : last + 1, :, : self._end]) for a in arrays]
            mx.eval(moved, self._copies)
            for array, source in zip(arrays, moved, strict=True):
                array[row : row + 1, :, : self._end] = source
        return caches

    def compact(self) -> None:
        """Some rows have left, and their copies are being computed: give their room back, once it
        is half of all and worth a copy."""
        self._copies.clear()
        if 2 * self._rows <= self._capacity and self._capacity * self._columns > SMALL:
            # Half as many again stay, or the next rows to come would have all copied back.
            self._capacity = self._rows + self._rows // 2
            self._resize()

    def states(self) -> list[mx.array]:
        """Every array."""
        return [array for cache in self.caches for array in cache.arrays]

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns, by copying everything if need be."""
        if rows <= self._capacity and columns <= self._columns:
            return
        if rows > self._capacity:
            double = max(2, 1 << (rows - 1).bit_length())
            grain = max(2, double // 4)
            small = double * max(columns, self._columns) <= ROOMY
            self._capacity = double if small else -(-rows // grain) * grain
        if columns > self._columns:
            ahead = max(columns, self._columns + self._columns // 8)
            self._columns = -(-ahead // BLOCK) * BLOCK
        self._resize()

    def _resize(self) -> None:
        """Copy what is in use to arrays of the capacity and columns that are wanted now."""
        for cache in self.caches:
            cache.arrays = [self._resized(array) for array in cache.arrays]
            mx.eval(cache.arrays)  # one layer at a time, or all would be there twice
        self._first = 0

    def _resized(self, array: mx.array) -> mx.array:
        used = array[self._first : self._first + self._rows, :, : self._end]
        rows, columns = used.shape[0], used.shape[2]
        more = [(0, self._capacity - rows), (0, 0), (0, self._columns - columns), (0, 0)]
        return mx.pad(used, more)


def _like(cache: Any, layout: Layout) -> RaggedCache:
    """An empty cache for rows like `cache`, with no rows and no columns."""
    arrays = [mx.zeros((0, a.shape[1], 0, a.shape[3]), dtype=a.dtype) for a in _arrays(cache)]
    if type(cache) is QuantizedKVCache:
        return QuantizedRaggedCache(layout, arrays, cache.group_size, cache.bits)
    return RaggedCache(layout, arrays)


def split(caches: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
    """The rows of plain or quantized mlx-lm caches `[rows, heads, columns, size]`, of which row i
    holds `lengths[i]` positions, as caches of their own."""
    return [[_alone(cache, row, length) for cache in caches] for row, length in enumerate(lengths)]


def _alone(cache: Any, row: int, length: int) -> Any:
    """One row's `length` positions as an mlx-lm cache."""
    taken = [mx.contiguous(array[row : row + 1, :, :length]) for array in _arrays(cache)]
    if isinstance(cache, QuantizedRaggedCache | QuantizedKVCache):
        alone: Any = QuantizedKVCache(group_size=cache.group_size, bits=cache.bits)
        alone.keys, alone.values = tuple(taken[:3]), tuple(taken[3:])
    else:
        alone = KVCache()
        alone.keys, alone.values = taken
    alone.offset = length
    return alone


def _arrays(cache: Any) -> list[mx.array]:
    """Keys and values, flat."""
    if isinstance(cache, RaggedCache):
        return cache.arrays
    parts = (cache.keys, cache.values)
    return [array for part in parts for array in (part if isinstance(part, tuple) else (part,))]
