"""Cache bytes against what the architectures are known to take; tests/unit/engine/test_memory.py
holds them, and the peak, against real caches and engines."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.placement.layers import Layer, layers, stages
from cluster.placement.memory import Load, longest_chunk, position_bytes, predict, slot_bytes

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "num_hidden_layers": 61, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "world", "expected"),
    [
        (LLAMA_8B, 1, 128 * 1024),
        (LLAMA_8B, 4, 32 * 1024),
        ({**LLAMA_8B, "torch_dtype": "float32"}, 1, 256 * 1024),
        ({**LLAMA_8B, "head_dim": 64}, 2, 32 * 1024),
        (DEEPSEEK_V3, 1, 61 * 576 * 2),
        (DEEPSEEK_V3, 8, 61 * 576 * 2),
        ({**DEEPSEEK_V3, "model_type": "deepseek_v2"}, 2, 61 * 64 * 320 * 2),
        ({"model_type": "qwen3_5", "text_config": {**LLAMA_8B, "full_attention_interval": 4}},
         1, 32 * 1024),
        ({"model_type": "qwen3_5", "text_config": {**LLAMA_8B, "full_attention_interval": 4}},
         16, 8 * 2 * 128 * 2),
    ],
)  # fmt: skip
def test_bytes_per_token(config: dict[str, Any], world: int, expected: int) -> None:
    assert position_bytes(config, world, "tensor") == expected


def test_a_stage_keeps_the_positions_of_its_own_layers() -> None:
    assert position_bytes(LLAMA_8B, 4, "pipeline") == 32 * 1024
    assert position_bytes(LLAMA_8B, 3, "pipeline") == 11 * 4 * 1024, "of the largest stage"


@pytest.mark.parametrize(("bits", "expected"), [(8, 128 + 8), (4, 64 + 8)])
def test_quantized_values_have_a_scale_and_a_bias(bits: int, expected: int) -> None:
    # 128 values of 8 or 4 bits, and for each group of 64 two values of 2 bytes.
    assert position_bytes(LLAMA_8B, 1, "single", bits) == 32 * 8 * 2 * expected


def test_windows_and_states_belong_to_the_slot() -> None:
    gpt = {**LLAMA_8B, "model_type": "gpt_oss", "sliding_window": 128}
    assert layers(gpt)[:2] == (Layer.WINDOW, Layer.FULL)
    assert position_bytes(gpt, 1, "single") == 16 * 4096
    assert slot_bytes(gpt, 1, "single") == 16 * 128 * 4096
    assert slot_bytes(gpt, 4, "tensor") == 16 * 128 * 1024
    assert slot_bytes(LLAMA_8B, 1, "single") == 0


def test_stages_follow_mlx_lm() -> None:
    marks = tuple(Layer.FULL if i else Layer.STATE for i in range(7))
    assert [len(part) for part in stages(marks, 3, "pipeline")] == [3, 2, 2]
    assert stages(marks, 3, "pipeline")[2][0] is Layer.STATE, "the last rank has the first layer"
    assert stages(marks, 2, "tensor") == [marks, marks]


def test_more_of_everything_takes_more() -> None:
    small = predict(LLAMA_8B, 2, "tensor", 0, Load(4096, 4, 1024, 512), 1000)
    assert small.weights == 1000
    assert small.kv == 4096 * 64 * 1024
    for more in (Load(8192, 4, 1024, 512), Load(4096, 4, 4096, 512), Load(4096, 4, 1024, 1024)):
        assert predict(LLAMA_8B, 2, "tensor", 0, more, 1000).total > small.total


def test_chunks_at_the_end_of_a_long_context_are_short() -> None:
    lengths = [longest_chunk(LLAMA_8B, 1, "single", n, 1e12) for n in (1024, 65536, 1 << 20)]
    assert lengths == sorted(lengths, reverse=True)
    assert 16 <= lengths[2] < lengths[0] <= 2048
