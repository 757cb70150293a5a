"""Stages of unequal machines: as many positions as any stages leave."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.parameters import weight_sizes
from cluster.placement.room import Engine, most_positions, needed_memory
from cluster.placement.stages import deal_layers
from cluster.placement.weights import sum_weights

GIB = 1 << 30
QWEN: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 32000,
    "num_key_value_heads": 8, "num_hidden_layers": 12, "intermediate_size": 11008,
    "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS = {
    **QWEN, "model_type": "qwen3_moe", "num_experts": 32, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1024, "mlp_only_layers": [0, 1, 2],
}  # fmt: skip
HYBRID = {
    **QWEN, "model_type": "qwen3_5", "linear_num_value_heads": 32, "linear_num_key_heads": 16,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128,
}  # fmt: skip


def engine(config: dict[str, Any], *gib: float) -> Engine:
    usable = tuple(int(each * GIB) for each in gib)
    weights = sum_weights(config, weight_sizes(config))
    return Engine(
        config=config, world=len(gib), kind="pipeline", kv_bits=0, usable_bytes=usable,
        weight_bytes=weights.by_rank(len(gib), "pipeline"), sequences=4, context=1 << 20,
        fused=True, cores=1,
    )  # fmt: skip


def dealt(config: dict[str, Any], *gib: float, least: int = 1) -> Engine | None:
    weights = sum_weights(config, weight_sizes(config))
    return deal_layers(engine(config, *gib), weights, least)


def test_in_proportion_to_what_machines_hold() -> None:
    two, three = dealt(QWEN, 3, 6), dealt(QWEN, 6, 3, 3)
    assert two
    assert three
    weights = sum_weights(QWEN, weight_sizes(QWEN))
    assert two.layers == (3, 9), "beside an embedding and an output on each"
    assert two.weight_bytes == weights.by_rank(2, "pipeline", (3, 9))
    assert three.layers == (6, 3, 3)


def test_layers_of_unequal_size() -> None:
    """The first layers of this model are small: the last rank, which has them, gets more."""
    found = dealt(EXPERTS, 6, 6)
    assert found
    assert found.layers[1] > found.layers[0]
    first, second = found.weight_bytes
    assert first == pytest.approx(second, rel=0.2)


def test_none() -> None:
    assert dealt(QWEN, 2, 2) is None, "5 GiB of weights"
    assert dealt(QWEN, 0.1, 64) is None, "not even one layer"
    assert dealt(QWEN, *[8.0] * 13) is None, "more ranks than layers"
    found = dealt(QWEN, 3, 6, least=1000)
    assert found
    most = most_positions(found, 1 << 30)
    assert dealt(QWEN, 3, 6, least=2 * most) is None


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([QWEN, EXPERTS, HYBRID]), st.lists(st.floats(1.0, 12.0), min_size=2, max_size=3)
)
def test_no_other_stages_hold_more(config: dict[str, Any], gib: list[float]) -> None:
    """Held against all there are."""
    found = dealt(config, *gib)
    weights = sum_weights(config, weight_sizes(config))
    whole, world = engine(config, *gib), len(gib)
    best = 0
    for cuts in combinations(range(1, 12), world - 1):
        ends = (0, *cuts, 12)
        counts = tuple(ends[i + 1] - ends[i] for i in range(world))
        held = weights.by_rank(world, "pipeline", counts)
        other = replace(whole, layers=counts, weight_bytes=held)
        first = zip(needed_memory(other, 1), whole.usable_bytes, strict=True)
        if all(memory.total <= usable for memory, usable in first):
            best = max(best, most_positions(other, 1 << 22))
    if found is None:
        assert best == 0
        return
    assert sum(found.layers) == 12
    assert min(found.layers) >= 1
    mine = most_positions(found, 1 << 22)
    # Blocks of 256 for each of 4 sequences, and chunks as equal stages would have them.
    assert mine >= 0.98 * best - 2048
    needed = needed_memory(found, mine)
    assert all(m.total <= u for m, u in zip(needed, found.usable_bytes, strict=True))
