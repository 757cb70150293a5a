"""Weight files: which ones there are, whether they are whole, how much they hold.

The safetensors format: 8 bytes little-endian header length, a JSON header, then the data
(https://huggingface.co/docs/safetensors). Only headers are read here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.core.errors import ModelUnavailable

PATTERN = "model*.safetensors"
"""What mlx-lm loads; consolidated copies of the same weights have other names."""

INDEX = "model.safetensors.index.json"
"""Says which tensor is in which file."""

_LONGEST_HEADER = 100_000_000
"""The format's own bound, in bytes."""


def weight_files(folder: Path) -> list[Path]:
    """The weight files by name; raises ModelUnavailable when there are none or some are missing."""
    files = sorted(folder.glob(PATTERN))
    if not files:
        raise ModelUnavailable(f"{folder} has no {PATTERN} file, so there are no weights to load")
    index = folder / INDEX
    if index.is_file():
        missing = sorted(_indexed(index) - {file.name for file in files})
        if missing:
            raise ModelUnavailable(
                f"{folder} lacks {len(missing)} of its weight files, {missing[0]} for one: "
                "the download is not complete"
            )
    return files


def read_header(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The raw header (with its length) and its JSON; raises ModelUnavailable when the file is
    no safetensors file or shorter than its header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ModelUnavailable(f"{file} is no whole safetensors file")
            raw = stream.read(length)
    except OSError as error:
        raise ModelUnavailable(f"can't read {file}: {error.strerror}") from error
    try:
        header = json.loads(raw)
        ends = (int(t["data_offsets"][1]) for n, t in header.items() if n != "__metadata__")
        end = max(ends, default=0)
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise ModelUnavailable(f"{file} has a broken header") from error
    if 8 + length + end > size:
        raise ModelUnavailable(
            f"{file} has {size} bytes, and its header speaks of {8 + length + end}: "
            "the download is not complete"
        )
    return start + raw, header


def tensor_bytes(folder: Path) -> dict[str, int]:
    """Bytes of each tensor by its name, as stored on disk, of the whole model."""
    sizes: dict[str, int] = {}
    for file in weight_files(folder):
        _, header = read_header(file)
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = map(int, tensor["data_offsets"])
                sizes[name] = end - begin
    return sizes


def _indexed(index: Path) -> set[str]:
    """Names of the files that an index speaks of."""
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{index} is broken: {error}") from error
