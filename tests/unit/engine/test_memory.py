"""What an engine takes at its peak, against what placement predicts."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from cluster.core.errors import BadConfiguration
from cluster.engine.loader import load
from cluster.model.weights import tensor_bytes
from cluster.placement.memory import Load, Memory, position_bytes, predict, slot_bytes
from cluster.placement.weights import rank_weight_bytes
from tests.unit.engine.driver import ALONE, Plan, Running
from tests.unit.engine.models import CONFIGS, write_model

COMMON = {
    "hidden_size": 384, "num_hidden_layers": 4, "intermediate_size": 1152, "head_dim": 64,
    "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 4000,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 256, "num_experts_per_tok": 4}
MIDDLE: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
              "num_attention_heads": 8, "num_key_value_heads": 4},
    "qwen3": {**COMMON, "num_hidden_layers": 6, "vocab_size": 16000},
    "qwen3_moe": {**COMMON, **EXPERTS, "num_experts": 16},
    "deepseek_v3": {**COMMON, **EXPERTS, "n_routed_experts": 16, "num_key_value_heads": 6,
                    "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 32,
                    "v_head_dim": 64, "qk_nope_head_dim": 64},
    "gpt_oss": {**COMMON, "intermediate_size": 384, "num_local_experts": 16,
                "sliding_window": 128,
                "layer_types": ["sliding_attention", "full_attention"] * 2},
    "qwen3_5": {**COMMON, "linear_num_value_heads": 6, "linear_num_key_heads": 6,
                "linear_key_head_dim": 64, "linear_value_head_dim": 64},
}  # fmt: skip
"""11 to 33 million parameters."""


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Freed buffers are given back at once, so that peaks are what was in use."""
    gc.collect()
    before = mx.set_cache_limit(0)
    yield
    mx.set_cache_limit(before)


def peak(folder: Path, steps: list[Any], kv_bits: int) -> tuple[int, int]:
    """(bytes at most while `steps` ran, bytes of weights)."""
    base = mx.get_active_memory()
    running = Running(folder, kv_bits=kv_bits)
    weights = mx.get_active_memory() - base
    mx.reset_peak_memory()
    running.run(steps)
    most = mx.get_peak_memory() - base
    running.close()
    return most, weights


def a_plan(rows: int, length: int, chunk: int) -> Plan:
    """As a server's: every sequence decodes while the next ones are prefilled."""
    rng = random.Random(3)
    plan = Plan()
    for row in range(rows):
        plan.prefill(row, [rng.randrange(128) for _ in range(length)], chunk=chunk)
        plan.decode(*range(row + 1), iterations=2)
    return plan


@pytest.mark.parametrize(
    ("kind", "rows", "length", "chunk", "bits"),
    [
        *((kind, 1, 768, 384, 0) for kind in MIDDLE),
        *((kind, 8, 200, 100, 0) for kind in MIDDLE),
        ("llama", 1, 768, 384, 8),
        ("llama", 8, 200, 100, 4),
    ],
)
def test_the_peak_is_as_predicted(
    kind: str, rows: int, length: int, chunk: int, bits: int, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / kind, kind, **MIDDLE[kind])
    config = {**json.loads((folder / "config.json").read_text()), "torch_dtype": "float32"}
    most, weights = peak(folder, a_plan(rows, length, chunk).steps, bits)
    positions = rows * (length + 2 * rows)
    asked = Load(positions, rows, length, chunk)
    said = predict(config, 1, "single", bits, asked, weights)
    print(f"{kind} {rows}x{length}: {most / 1e6:.1f} MB, predicted {in_words(said)}")
    assert said.total == pytest.approx(most, rel=0.15), in_words(said)
    # Weights are most of it, and are given.
    assert said.kv + said.working == pytest.approx(most - weights, rel=0.35), in_words(said)


def in_words(memory: Memory) -> str:
    parts = (memory.total, memory.weights, memory.kv, memory.working)
    return " ".join(f"{part / 1e6:.1f}" for part in parts)


class Ranks:
    """Stands in for a group: all that splitting asks of it."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "tensor") for kind in CONFIGS),
     *((kind, "pipeline") for kind in ("qwen2", "qwen3_moe", "deepseek_v3", "qwen3_5"))],
)  # fmt: skip
def test_weight_bytes_of_a_rank(kind: str, how: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind, vocab_size=1000)
    config = json.loads((folder / "config.json").read_text())
    held = []
    for rank in range(2):
        model: Any = load_model(folder, lazy=True)[0]
        split = model.shard if how == "tensor" else model.model.pipeline
        split(Ranks(rank, 2))
        arrays: Any = tree_flatten(model.parameters())
        held.append(sum(array.nbytes for _, array in arrays))
    said = rank_weight_bytes(config, tensor_bytes(folder), 2, how)
    assert said == pytest.approx(max(held), rel=0.03)
    whole = sum(tensor_bytes(folder).values())
    assert rank_weight_bytes(config, tensor_bytes(folder), 1, "single") == whole


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("kind", CONFIGS)
def test_cache_bytes_are_those_of_real_caches(kind: str, bits: int, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind, hidden_size=128, head_dim=32)
    config = {**json.loads((folder / "config.json").read_text()), "torch_dtype": "float32"}
    try:
        loaded = load(folder, ALONE, None, lambda fraction: None, bits)
    except BadConfiguration:
        assert kind in ("gpt_oss", "deepseek_v3")
        return
    caches = loaded.new_caches()
    tokens = mx.zeros((1, 256), dtype=mx.int32)
    mx.eval(loaded.model(tokens, cache=caches))
    mx.eval(loaded.model(tokens[:, :1], cache=caches))  # lets go of what is behind the window
    held = sum(cache.nbytes for cache in caches)
    position, slot = loaded.caches.position_bytes, loaded.caches.slot_bytes
    assert held == 512 * position + slot
    assert position_bytes(config, 1, "single", bits) == position
    assert slot_bytes(config, 1, "single") == slot
