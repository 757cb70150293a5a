"""A folder on its way: files that grow chunk by chunk, and become a model when all are there.

Only verified bytes are written. What was there is noted in a small file beside, and read and
hashed again before it counts after a restart: neither a torn write nor a full disk can leave a
chunk that is taken for whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.core.manifest import CHUNK, Manifest
from cluster.model.manifest import hash_chunk, replace_file
from cluster.node.transfer import Chunk


class Partial:
    """What is there so far of the model folder `final`. Everything blocks; OSErrors pass."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._folder = final.with_name(final.name + ".partial")
        self._files = self._folder / "files"
        self._state = self._folder / "state.json"

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """True inside if no other process, or task of this one, works on the same folder."""
        self._final.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, and never deleted: else two could hold locks of one name.
        with self._final.with_name(f"{self._final.name}.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def allocated(self) -> int:
        """Bytes of the disk that it takes now."""
        if not self._files.is_dir():
            return 0
        return sum(path.stat().st_blocks * 512 for path in self._files.iterdir())

    def resume(self, manifest: Manifest, progress: Callable[[float], None]) -> frozenset[Chunk]:
        """The chunks of `manifest` that are there and right. Everything else is removed.

        `progress` hears the fraction, 0 to 1, of what was noted, and may raise to end it.
        """
        self._files.mkdir(parents=True, exist_ok=True)
        wanted = {file.name: file for file in manifest.files}
        for path in self._files.iterdir():
            if path.name not in wanted:
                path.unlink()
        for name, file in wanted.items():
            with (self._files / name).open("ab") as stream:
                stream.truncate(file.size)  # a hole, which takes no room yet
        noted = [
            (Chunk(name, index), expected)
            for name, indexes in self._noted().items()
            if name in wanted
            for index, expected in enumerate(wanted[name].hashes)
            if index in indexes
        ]
        verified = set()
        for done, (chunk, expected) in enumerate(noted, start=1):
            if hash_chunk(self._files / chunk.file, chunk.index) == expected:
                verified.add(chunk)
            progress(done / len(noted))
        return frozenset(verified)

    def write(self, chunk: Chunk, data: bytearray) -> None:
        """Put a verified chunk in its place."""
        descriptor = os.open(self._files / chunk.file, os.O_WRONLY)
        try:
            place, rest = chunk.index * CHUNK, memoryview(data)
            while rest:
                count = os.pwrite(descriptor, rest, place)
                place, rest = place + count, rest[count:]
        finally:
            os.close(descriptor)

    def note(self, verified: Iterable[Chunk]) -> None:
        """Have a later `resume` look at these chunks, and no others."""
        noted: dict[str, list[int]] = {}
        for chunk in sorted(verified):
            noted.setdefault(chunk.file, []).append(chunk.index)
        replace_file(self._state, json.dumps(noted).encode())

    @property
    def files(self) -> Path:
        """The folder as it will be; complete once every chunk is written."""
        return self._files

    def finish(self) -> Path:
        """Every chunk is written and the whole was looked at: it becomes the model folder."""
        for path in self._files.iterdir():
            _sync(path)
        _sync(self._files)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._final)  # of a copy that turned out to be damaged
        self._files.rename(self._final)
        _sync(self._final.parent)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._final

    def discard(self) -> None:
        """Nothing of it is of use."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _noted(self) -> dict[str, frozenset[int]]:
        try:
            raw = json.loads(self._state.read_bytes())
            return {str(name): frozenset(map(int, indexes)) for name, indexes in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
