"""Sizes from a config against models that mlx-lm builds from the same config. Nothing is
computed: MLX makes arrays when they are needed, and here only their sizes are."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from cluster.core.errors import BadConfiguration
from cluster.placement.parameters import parameter_bytes, weight_sizes
from cluster.placement.weights import rank_weight_bytes, read_sizes

CONFIGS = Path(__file__).parent / "configs"
QWEN_235B = json.loads((CONFIGS / "qwen3-235b-a22b-8bit.json").read_text())
COMMON: dict[str, Any] = {
    "hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 1024, "vocab_size": 2000,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096, "rope_theta": 1e4, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
           "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip
LATENT = {"kv_lora_rank": 128, "q_lora_rank": 128, "qk_rope_head_dim": 32, "v_head_dim": 64,
          "qk_nope_head_dim": 64, "n_routed_experts": 8, "n_shared_experts": 1,
          "num_experts_per_tok": 2, "moe_intermediate_size": 256,
          "first_k_dense_replace": 1}  # fmt: skip
LINEAR = {"linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 64,
          "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4,
          "full_attention_interval": 4}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [1]},
    "deepseek_v3": LATENT,
    "deepseek_v2": {**LATENT, "rope_scaling": {"factor": 1.0}},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 128,
                "layer_types": ["sliding_attention", "full_attention"] * 2},
    "qwen3_5": LINEAR,
    "qwen3_next": {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 256,
                   "partial_rotary_factor": 0.25},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "gemma3_text": {"sliding_window": 512},
}  # fmt: skip


def built(config: dict[str, Any]) -> int:
    """Bytes of the model that mlx-lm makes of a config, in 2 bytes a value where not packed."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if settings := config.get("quantization"):
        nn.quantize(
            model,
            group_size=settings["group_size"],
            bits=settings["bits"],
            class_predicate=lambda _, m: hasattr(m, "to_quantized"),
        )
    arrays: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in arrays)


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_the_sum_is_that_of_the_model_that_mlx_lm_builds(kind: str, bits: int) -> None:
    config = {"model_type": kind, **COMMON, **MODELS[kind]}
    if bits:
        config["quantization"] = {"group_size": 64, "bits": bits}
    assert sum(weight_sizes(config).values()) == pytest.approx(built(config), rel=0.02)


def test_a_large_model_to_a_percent() -> None:
    sizes = weight_sizes(QWEN_235B)
    assert sum(sizes.values()) == pytest.approx(built(QWEN_235B), rel=0.01)
    counted = sum(read_sizes(QWEN_235B, sizes).values()) / parameter_bytes(QWEN_235B)
    assert counted == pytest.approx(21.6e9, rel=0.01), "of its 22 billion, without the embedding"


def test_ranks_share_what_can_be_shared() -> None:
    sizes = weight_sizes(QWEN_235B)
    whole = sum(sizes.values())
    two, four = (rank_weight_bytes(QWEN_235B, sizes, world, "tensor") for world in (2, 4))
    assert whole / 2 < two < whole / 2 * 1.02
    assert whole / 4 < four < whole / 4 * 1.03


def test_one_module_may_be_packed_apart() -> None:
    config = {"model_type": "qwen3_moe", **COMMON, **EXPERTS}
    plain = {"group_size": 64, "bits": 4}
    gate = "model.layers.0.mlp.gate"
    for special, expected in (({"bits": 8, "group_size": 32}, 1 + 1 / 8), (False, 2)):
        sizes = weight_sizes({**config, "quantization": {**plain, gate: special}})
        assert sizes[f"{gate}.weight"] == 8 * 512 * expected
        assert sizes["lm_head.weight"] == 2000 * 512 * 0.5625


@pytest.mark.parametrize(
    ("settings", "experts", "rest"),
    [
        ({"quant_method": "mxfp4"}, 4.25 / 8, 2),
        ({"mode": "mxfp4", "bits": 4, "group_size": 32}, 4.25 / 8, 4.25 / 8),
        ({"mode": "nvfp4", "bits": 4, "group_size": 16}, 4.5 / 8, 4.5 / 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 2, 2),
    ],
)
def test_other_packings(settings: dict[str, Any], experts: float, rest: float) -> None:
    config = {"model_type": "gpt_oss", **COMMON, **MODELS["gpt_oss"]}
    sizes = weight_sizes({**config, "quantization_config": settings})
    layer = "model.layers.0"
    assert sizes[f"{layer}.mlp.switch_mlp.up_proj.weight"] == 8 * 512 * 1024 * experts
    assert sizes[f"{layer}.self_attn.q_proj.weight"] == 512 * 512 * rest


def test_a_config_without_sizes_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"this mamba model .*hidden_size, vocab_size"):
        weight_sizes({"model_type": "mamba", "d_model": 1024})


def test_what_a_token_reads() -> None:
    config = {"model_type": "qwen3_moe", **COMMON, **EXPERTS}
    sizes = weight_sizes(config)
    read = read_sizes(config, sizes)
    expert = "model.layers.0.mlp.switch_mlp.up_proj.weight"
    assert read[expert] == sizes[expert] // 4
    assert "model.embed_tokens.weight" not in read
    assert read["lm_head.weight"] == sizes["lm_head.weight"]
    tied = read_sizes({**config, "tie_word_embeddings": True}, {"model.embed_tokens.weight": 9})
    assert tied == {"model.embed_tokens.weight": 9}, "it is the output layer too"
