"""Models from the Hugging Face Hub, and from its cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

from cluster.core.errors import ModelUnavailable
from cluster.model.manifest import NEEDED
from cluster.model.store import check_room

_ANSWER_SECONDS = 10.0

Get = Callable[[str, bool], Path]
"""(model, whether only from disk) -> the folder of what was fetched."""


def fetch(model: str, get: Get) -> Path:
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
        return cached(model, get, _reason(error))


def cached(model: str, get: Get, trouble: str) -> Path:
    """What is on disk of `model`; raises ModelUnavailable with `trouble` when that is not all."""
    try:
        return get(model, True)
    except OSError as error:
        raise ModelUnavailable(
            f"{model} is neither a folder nor reachable on the Hub: {trouble}"
        ) from error


def snapshot(model: str, local: bool) -> Path:
    """All that is needed of `model`. Raises ModelUnavailable when there is no room for it."""
    if not local:
        _check_room(model)
    return Path(
        huggingface_hub.snapshot_download(
            model,
            allow_patterns=list(NEEDED),
            etag_timeout=_ANSWER_SECONDS,
            local_files_only=local,
        )
    )


def _check_room(model: str) -> None:
    """Raise ModelUnavailable when what is not in the cache yet does not fit beside it."""
    files = huggingface_hub.snapshot_download(
        model, allow_patterns=list(NEEDED), etag_timeout=_ANSWER_SECONDS, dry_run=True
    )
    needed = sum(file.file_size or 0 for file in files if file.will_download)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if needed:
        check_room(there, needed, "HF_HOME")


def config_folder(model: str, local: bool) -> Path:
    """Its config.json alone."""
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
