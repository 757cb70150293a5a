"""The manifest of a model folder: made, kept, and checked when it comes from elsewhere."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cluster.core.errors import ModelUnavailable, ProtocolError
from cluster.core.manifest import CHUNK, Manifest, ModelFile
from cluster.model.digest import TEXT_FILES
from cluster.model.weights import PATTERN, weight_files

NEEDED = (
    "*.json", PATTERN, "tokenizer.model", "*.tiktoken", "tiktoken.model", "*.txt", "*.jinja",
)  # fmt: skip
"""What mlx-lm reads, by name; never code, and no other format of the same weights."""

MOST_FILES = 10_000
MOST_BYTES = 1 << 50
"""Bounds of a manifest that another machine sends."""

_NAME = re.compile(r"\w[\w.+-]{0,254}", re.ASCII)
_PIECE = 1 << 20
_THREADS = 4
"""SHA-256 is computed at 1 to 2 GB/s by one core; a disk may be faster."""

Progress = Callable[[float], None]


def is_needed(name: str) -> bool:
    """True for the plain name of a file that belongs to a model: no folder, no code."""
    return _NAME.fullmatch(name) is not None and any(
        fnmatch.fnmatchcase(name, pattern) for pattern in NEEDED
    )


def needed_files(folder: Path) -> list[Path]:
    """The files of `folder` that a copy of the model needs, by name. Links are followed: the
    Hub's cache is made of them. Raises ModelUnavailable."""
    weight_files(folder)
    try:
        found = [path for path in folder.iterdir() if is_needed(path.name) and path.is_file()]
    except OSError as error:
        raise ModelUnavailable(f"can't read {folder}: {error.strerror}") from error
    return sorted(found)


def make_manifest(folder: Path, cache: HashCache, progress: Progress) -> Manifest:
    """Read every needed file of `folder`, unless `cache` knows its hashes. Takes minutes for
    hundreds of GB; `progress` hears the fraction, 0 to 1, after each chunk, and may raise to end
    it. Raises ModelUnavailable, also for a file that changes meanwhile."""
    pool = ThreadPoolExecutor(_THREADS, "hash")
    try:
        files = needed_files(folder)
        stats = [os.stat(path) for path in files]
        known = [cache.get(path, stat) for path, stat in zip(files, stats, strict=True)]
        unread = sum(s.st_size for s, hashes in zip(stats, known, strict=True) if hashes is None)
        read = 0

        def count(size: int) -> None:
            nonlocal read
            read += size
            progress(read / max(1, unread))

        made = []
        for path, stat, hashes in zip(files, stats, known, strict=True):
            if hashes is None:
                hashes = _hash(path, stat.st_size, pool, count)
                cache.put(path, stat, hashes)
            made.append(ModelFile(path.name, stat.st_size, hashes))
    except OSError as error:
        raise ModelUnavailable(f"can't read {folder}: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return Manifest(tuple(made))


def check_manifest(manifest: Manifest) -> None:
    """Raise ProtocolError when a manifest asks for anything but the files of a model: other
    names, two that are one file where case does not count, hashes that do not fit the size."""
    if len(manifest.files) > MOST_FILES or manifest.size > MOST_BYTES:
        raise ProtocolError(f"a manifest of {len(manifest.files)} files, {manifest.size} bytes")
    names = {file.name.casefold() for file in manifest.files}
    if len(names) != len(manifest.files):
        raise ProtocolError("a manifest that names a file twice")
    for file in manifest.files:
        if not is_needed(file.name):
            raise ProtocolError(f"a manifest with {file.name[:80]!r}, which no model needs")
        if len(file.hashes) != -(-file.size // CHUNK) or any(len(h) != 32 for h in file.hashes):
            raise ProtocolError(f"a manifest with {len(file.hashes)} hashes for {file.name}")
    if "config.json" not in names or not any(fnmatch.fnmatchcase(n, PATTERN) for n in names):
        raise ProtocolError("a manifest without config.json or without weights")


def identity(manifest: Manifest) -> Manifest:
    """Those of its files that the model's digest covers: copies of one model may differ in
    others, such as notes that somebody has put beside it."""
    return Manifest(
        tuple(
            file
            for file in manifest.files
            if file.name in TEXT_FILES or fnmatch.fnmatchcase(file.name, PATTERN)
        )
    )


class HashCache:
    """Hashes of files that have not changed since: by path, size, time of change and inode.

    One small file for each, in a folder of their own. A cache that can't be written costs time,
    nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, path: Path, stat: os.stat_result) -> tuple[bytes, ...] | None:
        """The hashes of `path`, whose state is `stat`; None when they are not known."""
        try:
            kept = json.loads(self._place(path).read_bytes())
            if kept["state"] != _state(path, stat):
                return None
            raw = bytes.fromhex(kept["hashes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        hashes = tuple(raw[i : i + 32] for i in range(0, len(raw), 32))
        return hashes if len(hashes) == -(-stat.st_size // CHUNK) else None

    def put(self, path: Path, stat: os.stat_result, hashes: tuple[bytes, ...]) -> None:
        """Keep `hashes`, read while the state of `path` was `stat`."""
        place = self._place(path)
        kept = {"state": _state(path, stat), "hashes": b"".join(hashes).hex()}
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(place, json.dumps(kept).encode())

    def _place(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return self._folder / f"{name[:32]}.json"


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`: whoever reads it sees the old or the new. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    scratch.write_bytes(content)
    scratch.replace(path)


def hash_chunk(file: Path, index: int) -> bytes:
    """SHA-256 of chunk `index` of `file` as it is on disk. Raises OSError."""
    sha = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        stream.seek(index * CHUNK)
        left = CHUNK
        while left and (piece := stream.read(min(left, _PIECE))):
            sha.update(piece)
            left -= len(piece)
    return sha.digest()


def _hash(
    path: Path, size: int, pool: ThreadPoolExecutor, count: Callable[[int], None]
) -> tuple[bytes, ...]:
    def one(index: int) -> bytes:
        return hash_chunk(path, index)

    def counted() -> Iterator[bytes]:
        for index, found in enumerate(pool.map(one, range(-(-size // CHUNK)))):
            count(min(CHUNK, size - index * CHUNK))
            yield found

    before = _state(path, os.stat(path))
    hashes = tuple(counted())
    if _state(path, os.stat(path)) != before:
        raise ModelUnavailable(f"{path} changes while it is read: wait until it is complete")
    return hashes


def _state(path: Path, stat: os.stat_result) -> list[int | str]:
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev, CHUNK]
