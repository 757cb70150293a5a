"""Ragged caches hold each row's own positions, whoever joins, leaves or advances."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from cluster.engine import ragged
from cluster.engine.ragged import RaggedRows

HEADS, SIZE, LAYERS = 2, 32, 2


def values(length: int, seed: int) -> list[tuple[mx.array, mx.array]]:
    """Keys and values of one row, by layer, `[1, heads, length, size]`."""
    key = mx.random.key(seed)
    drawn = []
    for _ in range(LAYERS):
        key, one, two = mx.random.split(key, 3)
        shape = (1, HEADS, length, SIZE)
        drawn.append((mx.random.normal(shape, key=one), mx.random.normal(shape, key=two)))
    return drawn


class Row:
    """What one row should hold."""

    def __init__(self, seed: int, bits: int) -> None:
        self.all = values(900, seed)
        self.length = 0
        self.bits = bits

    def take(self, count: int) -> list[tuple[mx.array, mx.array]]:
        """The next `count` positions, without advancing."""
        span = slice(self.length, self.length + count)
        return [(k[:, :, span], v[:, :, span]) for k, v in self.all]

    def caches(self, length: int) -> list[Any]:
        caches = [
            QuantizedKVCache(group_size=32, bits=self.bits) if self.bits else KVCache()
            for _ in range(LAYERS)
        ]
        for cache, (keys, vals) in zip(caches, self.take(length), strict=True):
            cache.update_and_fetch(keys, vals)
        self.length += length
        return caches

    def same(self, layer: int, keys: Any, vals: Any) -> bool:
        """Whether these, `[1, heads, >= length, size]`, are its positions."""
        wanted = [array[:, :, : self.length] for array in self.all[layer]]
        got = (keys, vals)
        if self.bits:
            wanted = [a for w in wanted for a in mx.quantize(w, group_size=32, bits=self.bits)]
            got = (*keys, *vals)
        return all(
            np.array_equal(np.array(g[:, :, : self.length]), np.array(w))
            for g, w in zip(got, wanted, strict=True)
        )


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("seed", range(4))
def test_rows_come_and_go(seed: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "BLOCK", 32)
    rng = random.Random(seed)
    rows: list[Row] = []
    first = Row(1000 * seed, bits)
    batch = RaggedRows(first.caches(3))
    for turn in range(40):
        if not rows or (rng.random() < 0.3 and len(rows) < 6):
            row = Row(1000 * seed + turn + 1, bits)
            length = rng.randrange(1, 90)
            rows.insert(batch.join(row.caches(length), length), row)
        elif rng.random() < 0.3:
            place = rng.randrange(len(rows))
            row = rows[place]
            for layer, cache in enumerate(batch.leave(place, row.length)):
                assert cache.offset == row.length
                assert row.same(layer, cache.keys, cache.values)
            if place == 0:
                del rows[0]
            else:
                rows[place] = rows[-1]
                rows.pop()
        if rows:
            advance(batch, rows, rng)


def advance(batch: RaggedRows, rows: list[Row], rng: random.Random) -> None:
    """Write a few positions to every row; of each, some are then taken back."""
    width = rng.randrange(1, 5)
    batch.begin([row.length for row in rows], width)
    taken = [row.take(width) for row in rows]
    for layer, cache in enumerate(batch.caches):
        keys, vals = (mx.concatenate([row[layer][i] for row in taken]) for i in (0, 1))
        used = cache.update_and_fetch(keys, vals)
        assert cache.offset.tolist() == [row.length for row in rows]
        for place, row in enumerate(rows):
            row.length += width
            one = [
                tuple(a[place : place + 1] for a in part) if isinstance(part, tuple)
                else part[place : place + 1]
                for part in used
            ]  # fmt: skip
            assert row.same(layer, *one)
            row.length -= width
    for row in rows:
        row.length += rng.randrange(1, width + 1)


def test_rows_that_leave_together_copy_no_others() -> None:
    rows = [Row(seed, 0) for seed in range(8)]
    batch = RaggedRows(rows[0].caches(1))
    rows[0].length = 0
    for row in rows:
        batch.join(row.caches(200), 200, more=7)
    mx.eval(batch.states())
    whole = sum(array.nbytes for array in batch.states())
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    left = [batch.leave(place, 200) for place in (0, 2, 3)]
    mx.eval([cache.keys for caches in left for cache in caches], batch.states())
    # Three rows of eight, and the two that were moved.
    assert mx.get_peak_memory() - before < 0.8 * whole
    batch.compact()


def test_room_is_given_back_once_half_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no sooner taken again: rows that come and go at that size copy no others."""
    monkeypatch.setattr(ragged, "SMALL", 0)
    rows = [Row(seed, 0) for seed in range(8)]
    batch = RaggedRows(rows[0].caches(1))
    rows[0].length = 0
    for row in rows:
        batch.join(row.caches(20), 20)
    for capacity in (8, 8, 8, 6):
        batch.leave(1, 20)
        last = rows.pop()
        rows[1] = last
        batch.compact()
        assert batch.states()[0].shape[0] == capacity
    for turn in range(4):
        rows.append(Row(100 + turn, 0))
        assert batch.join(rows[-1].caches(20), 20) == len(rows) - 1
        assert batch.states()[0].shape[0] == 6
        batch.leave(len(rows) - 1, 20)
        rows.pop()
        batch.compact()
        assert batch.states()[0].shape[0] == 6
    advance(batch, rows, random.Random(0))


def test_a_query_sees_up_to_its_own_position() -> None:
    row = Row(1, 0)
    batch = RaggedRows(row.caches(3))
    for length in (3, 5):
        other = Row(length, 0)
        batch.join(other.caches(length), length)
    batch.begin([3, 5], 2)
    mask = batch.caches[0].make_mask(2)
    assert mask.shape == (2, 1, 2, 7)
    assert mask.sum(axis=-1).tolist() == [[[4, 5]], [[6, 7]]]
    assert bool(mx.all(mask[1, 0, 0, :6]))
    windowed = batch.caches[0].make_mask(2, window_size=2)
    assert windowed[0, 0, 0].tolist() == [False, False, True, True, False, False, False]
