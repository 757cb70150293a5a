"""Small models with random weights and the demo model's tokenizer, made where tests run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

import cluster.demo

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**_COMMON, "model_type": "qwen3"},
    "qwen3_moe": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "qwen3_moe_12": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 12,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    # About 30M parameters and a context of 32k: its prefill takes long on one core.
    "llama_30m": {
        **_COMMON,
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the random model `name` to `folder` and return it. float32, same bytes each time."""
    demo = cluster.demo.folder()
    vocabulary = json.loads((demo / "config.json").read_text())
    config = {
        **CONFIGS[name],
        "vocab_size": vocabulary["vocab_size"],
        "eos_token_id": vocabulary["eos_token_id"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for file in TOKENIZER_FILES:
        if (demo / file).exists():
            shutil.copy(demo / file, folder / file)
    model_class, arguments = _get_classes(config)
    mx.random.seed(seed)
    model = model_class(arguments.from_dict(config))
    weights = {k: 2 * v.astype(mx.float32) for k, v in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder
