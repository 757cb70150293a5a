"""The slot table: each sequence's KV caches and how many positions they hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.engine.loader import LoadedModel

Caches = list[Any]
"""One mlx-lm cache per layer."""


@dataclass(slots=True)
class Sequence:
    """What a slot holds on this rank."""

    caches: Caches = field(default_factory=list)
    """Stale while the slot is a row of a merged batch, which holds them then."""
    length: int = 0
    """Positions in the caches; known without asking the device."""
    latest: mx.array | None = None
    """The token sampled last, int32 `[1]`, possibly not computed yet; None before the first."""


class SlotTable:
    """Slots by id. Edits of caches only; raises StepRefused for what the plan can't mean."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._slots: dict[Slot, Sequence] = {}

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: Slot) -> Sequence:
        """The sequence in `slot`; raises StepRefused when it is empty."""
        try:
            return self._slots[slot]
        except KeyError:
            raise StepRefused(f"slot {slot} is empty") from None

    def create(self, slot: Slot) -> Sequence:
        """Put an empty sequence into `slot`; raises StepRefused when it is taken."""
        if slot in self._slots:
            raise StepRefused(f"slot {slot} is taken")
        sequence = Sequence(self._loaded.new_caches())
        self._slots[slot] = sequence
        return sequence

    def put(self, slot: Slot, caches: Caches, length: int) -> None:
        """Put `length` positions into `slot`; raises StepRefused when it is taken."""
        self.create(slot).caches = caches
        self[slot].length = length

    def fork(self, source: Slot, slot: Slot, keep: int) -> None:
        """Begin `slot` with the first `keep` positions of `source`, which is not changed.

        Nothing is copied now: both hold the same buffers until one of them writes.
        """
        origin = self[source]
        if slot in self._slots:
            raise StepRefused(f"slot {slot} is taken")
        # A deep copy makes new array objects on the same buffer. Sharing the objects would
        # not do: `keys[..., a:b, :] = new` changes the object for all who hold it.
        caches = copy.deepcopy(origin.caches)
        fork = Sequence(caches, origin.length)
        self._trim(fork, keep, f"slot {source}")
        self._slots[slot] = fork

    def trim(self, slot: Slot, keep: int) -> None:
        """Keep the first `keep` positions of `slot`."""
        self._trim(self[slot], keep, f"slot {slot}")

    def drop(self, slot: Slot) -> None:
        """Empty `slot`; raises StepRefused when it is empty."""
        del self[slot].caches[:]
        del self._slots[slot]

    def _trim(self, sequence: Sequence, keep: int, name: str) -> None:
        excess = sequence.length - keep
        if keep < 0 or excess < 0:
            raise StepRefused(f"{name} holds {sequence.length} positions, not {keep}")
        if excess == 0:
            return
        if keep == 0:
            sequence.caches = self._loaded.new_caches()
        elif self._loaded.trimmable:
            for cache in sequence.caches:
                cache.trim(excess)
                _shrink(cache)
        else:
            raise StepRefused(
                f"{name} holds {sequence.length} positions and this model's cache can't be cut "
                f"to {keep}"
            )
        sequence.length = keep


def _shrink(cache: Any) -> None:
    """Let go of the buffer behind the positions that were cut, when it is worth a copy."""
    if type(cache) not in (KVCache, QuantizedKVCache) or cache.keys is None:
        return
    rows = -(-cache.offset // cache.step) * cache.step
    first = cache.keys if type(cache) is KVCache else cache.keys[0]
    if first.shape[2] - rows >= cache.step:
        cache.keys, cache.values = tree_map(
            lambda array: mx.contiguous(array[..., :rows, :]), (cache.keys, cache.values)
        )


def states(caches: Caches) -> list[mx.array]:
    """All arrays of `caches`, flat."""
    return [array for cache in caches for array in _arrays(cache.state)]


def _arrays(value: Any) -> Iterator[mx.array]:
    # A generator, not a function inside another: one that calls itself is a reference cycle,
    # and would keep whole caches alive until the garbage collector's next round.
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)


def start(arrays: list[mx.array]) -> None:
    """Hand `arrays` to MLX to be computed, without waiting."""
    if arrays:
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]
