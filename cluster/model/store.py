"""The folder in which a machine keeps the models that it got from others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.core.errors import ModelUnavailable

VARIABLE = "TANDEM_MODELS"

SPARE = 1 << 30
"""Bytes that are left free on the disk."""


def models_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """What TANDEM_MODELS names, else tandem/models in the user's cache folder."""
    if named := environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "tandem" / "models"


def check_room(folder: Path, needed: int, variable: str = VARIABLE) -> None:
    """Raise ModelUnavailable when the disk of `folder`, which exists, has no room for `needed`
    more bytes; `variable` can name another folder."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise ModelUnavailable(
            f"{gib(needed)} of weights do not fit on the disk of {folder}: {gib(free)} are free "
            f"there, of which {gib(SPARE)} stay free. Make room, or name a folder on a larger "
            f"disk in the variable {variable}"
        )


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / (1 << 30):.3g} GiB"
