"""How many positions fit, and the words when none do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.core.errors import DoesNotFit
from cluster.placement.memory import Load, longest_chunk, predict
from cluster.placement.room import SHARE, Engine, room

GIB = 1 << 30
CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 128256,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "intermediate_size": 14336,
    "torch_dtype": "bfloat16",
}  # fmt: skip
ENGINE = Engine(
    config=CONFIG, world=1, kind="single", kv_bits=0, weight_bytes=(16 * GIB,),
    usable_bytes=(24 * GIB,), sequences=8, context=131072, fused=True, cores=8,
)  # fmt: skip


def test_what_fits_is_used_and_no_more() -> None:
    found = room(ENGINE, 1 << 20)
    assert found.position_bytes == 128 * 1024
    chunk = longest_chunk(CONFIG, 1, "single", found.kv_tokens, ENGINE.speed)
    load = Load(int(found.kv_tokens / SHARE), 8, found.kv_tokens, chunk, fused=True)
    said = predict(CONFIG, 1, "single", 0, load, ENGINE.weight_bytes[0])
    assert 0.9 * ENGINE.usable_bytes[0] < said.total <= 1.01 * ENGINE.usable_bytes[0]


def test_fewer_bits_are_more_positions() -> None:
    tokens = [room(replace(ENGINE, kv_bits=bits), 1 << 20).kv_tokens for bits in (0, 8, 4)]
    assert tokens[1] > 1.7 * tokens[0]
    assert tokens[2] > 1.7 * tokens[1]


def test_a_bound_and_a_size_of_ones_own() -> None:
    assert room(ENGINE, 1000).kv_tokens == 1000
    assert room(ENGINE, 1 << 20, 2 * GIB).kv_tokens == 16384
    with pytest.raises(DoesNotFit, match=r"16\.00 GiB of weights and 9\.00 GiB of KV cache"):
        room(ENGINE, 1 << 20, 9 * GIB)


def test_too_little_memory_is_said_with_both_numbers() -> None:
    with pytest.raises(DoesNotFit, match=r"16\.00 GiB of weights.* only 15\.00 GiB"):
        room(replace(ENGINE, usable_bytes=(15 * GIB,)), 1 << 20)


def test_chunks_are_bounded_where_attention_takes_memory() -> None:
    assert room(ENGINE, 1 << 20).attended == 0
    assert room(replace(ENGINE, kv_bits=8), 1 << 20).attended > 0
    few, many = (
        room(replace(ENGINE, fused=False, cores=cores), 1 << 20, 2 * GIB) for cores in (2, 16)
    )
    assert 0 < few.attended < many.attended
    assert few.rank_bytes < many.rank_bytes


def test_windows_are_counted_for_every_slot() -> None:
    config = {**CONFIG, "model_type": "gpt_oss", "sliding_window": 128}
    found = room(replace(ENGINE, config=config), 1 << 20)
    assert found.slot_positions == 128
