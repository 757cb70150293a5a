"""What tells one model from another, cheaply enough to compute at each start."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cluster.core.errors import ModelUnavailable
from cluster.model.weights import read_header, weight_files

_BLOCK = 4096
_BLOCKS = 16
TEXT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "tiktoken.model",
)  # fmt: skip
"""Covered whole, where they are there."""


def digest(folder: Path) -> str:
    """SHA-256, in hex, that is equal for two folders exactly when they hold the same model.

    Covers config.json and the tokenizer's files whole, and of each weight file its name, size,
    header and 16 evenly spaced blocks of 4 KiB: enough to tell fine-tunes and quantizations
    apart, not to find one flipped bit. Raises ModelUnavailable.
    """
    sha = hashlib.sha256()

    def add(name: str, content: bytes) -> None:
        # Lengths go in as well, so that no two lists of parts give the same bytes.
        for part in (name.encode(), content):
            sha.update(len(part).to_bytes(8, "little"))
            sha.update(part)

    try:
        for name in TEXT_FILES:
            path = folder / name
            if path.is_file():
                add(name, path.read_bytes())
        for file in weight_files(folder):
            header, _ = read_header(file)
            add(file.name, file.stat().st_size.to_bytes(8, "little"))
            add("header", header)
            add("blocks", _sample(file, len(header)))
    except OSError as error:
        raise ModelUnavailable(f"can't read {folder}: {error}") from error
    return sha.hexdigest()


def _sample(file: Path, start: int) -> bytes:
    """Evenly spaced blocks of the data that begins at `start`: the first and last included."""
    room = max(0, file.stat().st_size - start - _BLOCK)
    with file.open("rb") as stream:
        blocks = []
        for index in range(_BLOCKS):
            stream.seek(start + room * index // (_BLOCKS - 1))
            blocks.append(stream.read(_BLOCK))
    return b"".join(blocks)
