"""From what a person calls a model to a folder that holds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.core.errors import ModelUnavailable
from cluster.model.config import read_config, read_config_file
from cluster.model.weights import PATTERN, tensor_bytes, weight_files

DEMO = "demo"
DEMO_ID = "tandem-demo"

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def resolve(model: str) -> Path:
    """The folder of a model: of "demo", of a local folder, or of a Hugging Face id, which is
    fetched first where it is not yet on disk. Raises ModelUnavailable with one clear line."""
    folder = _locate(model, _from_hub)
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
    folder = _locate(model, _config_from_hub)
    config = read_config(folder)
    on_hub = model != DEMO and not path.is_dir()
    return config, None if on_hub or not any(folder.glob(PATTERN)) else tensor_bytes(folder)


def on_disk(model: str) -> Path | None:
    """The folder of a model that is here already, in the Hub's cache for one; asks nobody."""
    try:
        folder = _locate(model, _from_cache)
        read_config(folder)
    except ModelUnavailable:
        return None
    return folder


def model_id(model: str) -> str:
    """The name that clients use: "tandem-demo", the folder's name, or the Hub id."""
    if model == DEMO:
        return DEMO_ID
    path = Path(model).expanduser()
    if _is_path(model) or path.exists():
        return path.resolve().name
    return model


def _locate(model: str, fetch: Callable[[str], Path]) -> Path:
    """The folder of `model`; `fetch` gets what can only be a Hub id."""
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
    return fetch(model)


# The Hub's library is slow to import, and most starts need none of it.


def _from_hub(model: str) -> Path:
    from cluster.model import hub

    return hub.fetch(model, hub.snapshot)


def _config_from_hub(model: str) -> Path:
    from cluster.model import hub

    return hub.fetch(model, hub.config_folder)


def _from_cache(model: str) -> Path:
    from cluster.model import hub

    return hub.cached(model, hub.snapshot, "it was not asked")


def _is_path(model: str) -> bool:
    """True for what can only be a path: no Hub id looks like it."""
    return model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1
