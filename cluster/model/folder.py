"""From what a person calls a model to a folder that holds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

from cluster.core.errors import ModelUnavailable
from cluster.model.config import read_config, read_config_file
from cluster.model.weights import PATTERN, tensor_bytes, weight_files

DEMO = "demo"
DEMO_ID = "tandem-demo"

_FILES = [
    "*.json", PATTERN, "tokenizer.model", "*.tiktoken", "tiktoken.model", "*.txt", "*.jinja",
]  # fmt: skip
"""What is fetched from the Hub: what mlx-lm reads, and never code."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_ANSWER_SECONDS = 10.0


def resolve(model: str) -> Path:
    """The folder of a model: of "demo", of a local folder, or of a Hugging Face id, which is
    fetched first where it is not yet on disk. Raises ModelUnavailable with one clear line."""
    folder = _locate(model, _snapshot)
    read_config(folder)
    weight_files(folder)
    return folder


def describe(model: str) -> tuple[dict[str, Any], dict[str, int] | None]:
    """The config of a model, and the bytes of each of its tensors where its weight files are at
    hand. Of a Hugging Face id only config.json is fetched; a path to one alone will do too.
    Raises ModelUnavailable with one clear line."""
    path = Path(model).expanduser()
    try:
        alone = model != DEMO and path.is_file()
    except OSError as error:
        raise ModelUnavailable(f"can't read {model}: {error.strerror}") from error
    if alone:
        return read_config_file(path), None
    folder = _locate(model, _config_folder)
    config = read_config(folder)
    on_hub = model != DEMO and not path.is_dir()
    return config, None if on_hub or not any(folder.glob(PATTERN)) else tensor_bytes(folder)


def model_id(model: str) -> str:
    """The name that clients use: "tandem-demo", the folder's name, or the Hub id."""
    if model == DEMO:
        return DEMO_ID
    path = Path(model).expanduser()
    if _is_path(model) or path.exists():
        return path.resolve().name
    return model


_Get = Callable[[str, bool], Path]
"""(model, whether only from disk) -> the folder of what was fetched."""


def _locate(model: str, get: _Get) -> Path:
    if model == DEMO:
        from cluster import demo

        return demo.folder()
    path = Path(model).expanduser()
    try:
        if path.is_dir():
            return path.resolve()
        exists = path.exists()
    except OSError as error:
        raise ModelUnavailable(f"can't read {model}: {error.strerror}") from error
    if exists:
        raise ModelUnavailable(f"{model} is a file; name the folder that holds the model")
    if _is_path(model) or not _HUB_ID.fullmatch(model):
        raise ModelUnavailable(f"there is no folder {model}")
    return _fetch(model, get)


def _is_path(model: str) -> bool:
    """True for what can only be a path: no Hub id looks like it."""
    return model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1


def _fetch(model: str, get: _Get) -> Path:
    """What to `get` of `model` from the Hub, or from disk where the Hub can't be reached."""
    try:
        # Asked apart, as a download itself would wait for an answer without end. The newest is
        # fetched by its name: what is fetched by its commit is not found again offline.
        huggingface_hub.HfApi().model_info(model, timeout=_ANSWER_SECONDS)
        return get(model, False)
    except hub.GatedRepoError as error:
        raise ModelUnavailable(
            f"{model} is gated on the Hub: accept its terms at https://huggingface.co/{model}, "
            "then log in with `hf auth login`"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"{model} is neither a folder nor a model on the Hub that this login may read"
        ) from error
    except hub.HFValidationError as error:
        raise ModelUnavailable(
            f"{model} is neither a folder nor a name that the Hub allows"
        ) from error
    except (HTTPError, OSError) as error:
        return _cached(model, get, _reason(error))


def _cached(model: str, get: _Get, trouble: str) -> Path:
    """What is on disk of `model`; raises ModelUnavailable with `trouble` when that is not all."""
    try:
        return get(model, True)
    except OSError as error:
        raise ModelUnavailable(
            f"{model} is neither a folder nor reachable on the Hub: {trouble}"
        ) from error


def _snapshot(model: str, local: bool) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            model,
            allow_patterns=_FILES,
            etag_timeout=_ANSWER_SECONDS,
            local_files_only=local,
        )
    )


def _config_folder(model: str, local: bool) -> Path:
    return Path(
        huggingface_hub.hf_hub_download(
            model,
            "config.json",
            etag_timeout=_ANSWER_SECONDS,
            local_files_only=local,
        )
    ).parent


def _reason(error: Exception) -> str:
    """One line: the first cause's own words."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
