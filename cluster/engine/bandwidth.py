"""How fast this rank reads its own weights: the pace of its machine alone.

A step's time does not tell it: all ranks wait for each other in collectives, so each takes as long
as the slowest. So now and then, with nothing under way, each multiplies one row by the weights of
its linear layers and takes the time. Decoding is bound by reading weights: what slows that down (a
weaker chip, heat, another program) slows this down. The layers themselves are not called, since
some end in a collective.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.distributed import (
    AllToShardedLinear,
    QuantizedAllToShardedLinear,
    QuantizedShardedToAllLinear,
    ShardedToAllLinear,
)
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from cluster.core.ids import Seq

EVERY = 256
"""Steps from one measurement to the next. Nearly each has a decode iteration or a chunk, which
reads all that is read here, so that this and the wait before it take less than 1 % of the time."""
READ = 512 << 20
"""Bytes that are read, if there are as many. A fast GPU takes a millisecond for them; with fewer,
it would count that it has to be given work and to say that it is done."""

_PLAIN = (Linear, AllToShardedLinear, ShardedToAllLinear)
_QUANTIZED = (QuantizedLinear, QuantizedAllToShardedLinear, QuantizedShardedToAllLinear)
# A token meets all of their weights; of embeddings and experts only some.


def due(seq: Seq) -> bool:
    """Whether it is measured before this step. The first step of a session is one; what decides
    is the plan, so all ranks do it at once, and wait for none but the slowest in this."""
    return seq % EVERY == 1


class Bandwidth:
    """Measures one rank. To be made and used on the engine thread."""

    def __init__(self, module: Any, read: int = READ) -> None:
        """Of the weights of `module` (of mlx.nn), which are in memory, the first `read` bytes
        count."""
        self._products: list[Callable[[], mx.array]] = []
        """Each builds the product of one row and the weights of one layer, or some rows of them."""
        self._bytes = 0
        for _, layer in module.named_modules():
            weights = _cut(_weights_of(layer), read - self._bytes)
            if weights:
                self._bytes += sum(array.nbytes for array in weights)
                self._products.append(_product(layer, weights))
        self.measure()  # compiles what has to be

    def measure(self) -> float | None:
        """Bytes per second; None for a model without linear layers. No launch may be under way."""
        if not self._products:
            return None
        products = [product() for product in self._products]
        mx.synchronize()  # edits of slots may have left copies to be made
        begun = time.monotonic()
        mx.eval(products)
        return self._bytes / (time.monotonic() - begun)


def _weights_of(layer: Any) -> list[mx.array]:
    """What a linear layer multiplies by, each array with a row for each of its outputs; empty for
    other layers."""
    if isinstance(layer, _PLAIN):
        return [layer.weight]
    if isinstance(layer, _QUANTIZED):
        biases = layer.get("biases")
        return [layer.weight, layer.scales, *([] if biases is None else [biases])]
    return []


def _cut(weights: list[mx.array], room: int) -> list[mx.array]:
    """As many of their first rows as take `room` bytes: views, no copies."""
    rows = room // max(1, sum(array.nbytes // array.shape[0] for array in weights))
    if not weights or rows == 0:
        return []
    cut = [array[:rows] for array in weights]
    mx.eval(cut)
    return cut


def _product(layer: Any, weights: list[mx.array]) -> Callable[[], mx.array]:
    """Not zeros: there are products that skip those."""
    if isinstance(layer, _PLAIN):
        (weight,) = weights
        row = mx.ones((1, weight.shape[1]), weight.dtype)
        mx.eval(row)
        return lambda: row @ weight.T
    weight, scales, *biases = weights
    # A layer is given what its scales are made of, unless these are numbers of 8 bits.
    dtype = scales.dtype if mx.issubdtype(scales.dtype, mx.floating) else mx.bfloat16
    row = mx.ones((1, weight.shape[1] * 32 // layer.bits), dtype)
    mx.eval(row)
    return lambda: mx.quantized_matmul(
        row,
        weight,
        scales,
        biases[0] if biases else None,
        transpose=True,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )
