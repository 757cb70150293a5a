"""KV bytes against what the architectures are known to take."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.placement.memory import kv_bytes_per_token

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
    assert kv_bytes_per_token(config, world) == expected
