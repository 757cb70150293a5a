"""config.json: what a model folder says of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.core.errors import ModelUnavailable
from cluster.placement.shape import language_config

DEFAULT_CONTEXT = 4096
"""Of a model that names no length; what the oldest llama models were trained on."""

_LENGTHS = (
    "max_position_embeddings", "max_sequence_length", "max_seq_len", "seq_length",
    "n_positions", "n_ctx", "model_max_length",
)  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json; raises ModelUnavailable when it is missing, broken, names no
    model type, or asks for code from the repository to be run."""
    try:
        return read_config_file(folder / "config.json")
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{folder} has no config.json, so it is no model folder") from error


def read_config_file(path: Path) -> dict[str, Any]:
    """The same of the file itself, whatever it is called; FileNotFoundError when it is missing."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelUnavailable(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelUnavailable(f"{path} names no model_type, so it can't be loaded")
    if config.get("model_file") is not None:
        raise ModelUnavailable(
            f"{path.parent} wants its own code to be run ({config['model_file']!r}), which Tandem "
            "never does: use a model whose architecture mlx-lm knows"
        )
    return config


def context_length(config: Mapping[str, Any]) -> int:
    """Longest prompt plus answer, in tokens, that the model was made for."""
    for part in (language_config(config), config):
        for name in _LENGTHS:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return DEFAULT_CONTEXT
