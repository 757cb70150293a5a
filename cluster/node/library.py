"""The models on this machine's disks: found by digest, and served to other agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from cluster.core.cluster import Loading
from cluster.core.errors import ModelUnavailable
from cluster.core.manifest import CHUNK, Manifest, Wanted
from cluster.model.cut import read_cut
from cluster.model.digest import digest
from cluster.model.manifest import HashCache, make_manifest, needed_files
from cluster.node.cutter import CUT_COMMAND, Cutter

TELL_SECONDS = 1.0
"""Between two words of progress."""

PIECE = 1 << 20
"""Bytes read from disk, and sent, at once."""

MOST_OPEN = 32
"""Manifests kept in memory; one of 500 GB takes 2 MB."""


class Library:
    """Finds models and reads from them. What blocks is done in threads."""

    def __init__(self, folder: Path, *, cut_command: Sequence[str] = CUT_COMMAND) -> None:
        """`folder` is where this machine keeps the models that it got from others."""
        self.folder = folder
        self._hashes = HashCache(folder / "hashes")
        self._cutter = Cutter(folder / "cuts", cut_command)
        self._making: dict[str, _Making] = {}
        """Manifests that are being made, by `Wanted.name`."""
        self._open: dict[str, tuple[Path, Manifest]] = {}
        """By `Wanted.name`; the one used last is the last."""

    async def find(self, wanted: Wanted) -> Path | None:
        """The folder that holds just what is wanted; None when this machine has none."""
        return await asyncio.to_thread(self._find, wanted)

    async def has(self, wanted: Wanted) -> int | None:
        """Bytes of the files that are needed to load it; None when it is not here. What could be
        cut here counts as not here."""
        folder = await self.find(wanted)
        return None if folder is None else await asyncio.to_thread(_size, folder)

    async def manifest(self, wanted: Wanted) -> AsyncGenerator[Loading | Manifest, None]:
        """The manifest of what is wanted, after hashing or cutting it where that has to be done;
        progress before. Raises ModelUnavailable when it is not here."""
        folder = await self.find(wanted)
        if folder is None and wanted.cut is not None:
            whole = await self._whole(wanted)
            async with aclosing(self._cutter.cut(wanted, whole)) as events:
                async for loading in events:
                    yield loading
            folder = await self.find(wanted)
        if folder is None:
            raise _not_here(wanted)
        making = self._making.get(wanted.name)
        if making is None:
            making = self._making[wanted.name] = _Making(folder, self._hashes)
            making.task.add_done_callback(lambda _: self._making.pop(wanted.name))
        # On being left it goes on: the next call finds the hashes.
        while not (await asyncio.wait([making.task], timeout=TELL_SECONDS))[0]:
            yield Loading("hashing weights", making.fraction)
        manifest = making.task.result()
        self._keep(wanted, folder, manifest)
        yield manifest

    async def read_chunk(
        self, wanted: Wanted, name: str, index: int
    ) -> AsyncGenerator[bytes, None]:
        """A chunk as it is on disk. Only files of the manifest can be named; raises
        ModelUnavailable for others, and for models that nobody asked the manifest of."""
        if wanted.name not in self._open:
            async for _ in self.manifest(wanted):  # this agent was started anew meanwhile
                pass
        folder, manifest = self._open[wanted.name]
        self._cutter.used(wanted)
        files = {file.name: file for file in manifest.files}
        if name not in files or not 0 <= index < len(files[name].hashes):
            raise ModelUnavailable(f"there is no chunk {index} of {name[:80]!r} in this model")
        place, left = index * CHUNK, files[name].length(index)
        try:
            descriptor = await asyncio.to_thread(os.open, folder / name, os.O_RDONLY)
            try:
                while left:
                    size = min(PIECE, left)
                    data = await asyncio.to_thread(os.pread, descriptor, size, place)
                    if not data:
                        break  # cut short since: the caller sees that it is
                    yield data
                    place, left = place + len(data), left - len(data)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._open.pop(wanted.name, None)
            raise ModelUnavailable(f"can't read {name}: {error.strerror}") from error

    async def close(self) -> None:
        """End what is being hashed or cut, and delete what was cut."""
        for making in self._making.values():
            making.stopped = True
        if self._making:
            await asyncio.wait([making.task for making in self._making.values()])
        await self._cutter.close()

    def _find(self, wanted: Wanted) -> Path | None:
        # Here, as the Hub's library is slow to import and an agent is to start at once.
        from cluster.model.folder import on_disk

        places = [self.folder / wanted.name]
        if wanted.cut is not None:
            places.append(self._cutter.folder(wanted))
        for place in places:
            if holds(place, wanted):
                return place
        if wanted.cut is not None:
            return None
        found = on_disk(wanted.model)
        return found if found is not None and holds(found, wanted) else None

    async def _whole(self, wanted: Wanted) -> Path:
        whole = await self.find(Wanted(wanted.model, wanted.digest))
        if whole is None:
            raise _not_here(wanted)
        return whole

    def _keep(self, wanted: Wanted, folder: Path, manifest: Manifest) -> None:
        self._open.pop(wanted.name, None)
        self._open[wanted.name] = (folder, manifest)
        while len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]


class _Making:
    """A manifest that a thread is making, for all who wait for it."""

    def __init__(self, folder: Path, hashes: HashCache) -> None:
        self.fraction = 0.0
        self.stopped = False
        making = asyncio.to_thread(make_manifest, folder, hashes, self._progress)
        self.task = asyncio.create_task(making, name="hash weights")

    def _progress(self, fraction: float) -> None:
        self.fraction = fraction
        if self.stopped:  # a thread can only be ended from within
            raise ModelUnavailable("this machine's node agent is stopping")


def holds(folder: Path, wanted: Wanted) -> bool:
    """True when `folder` holds what is wanted, as far as the model's digest tells: it reads a
    few blocks of each file."""
    try:
        if not folder.is_dir():
            return False
        cut = read_cut(folder)
        if wanted.cut is not None:
            return cut is not None and cut.fits(wanted.digest, wanted.cut)
        return cut is None and digest(folder) == wanted.digest
    except (ModelUnavailable, OSError):
        return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in needed_files(folder))


def _not_here(wanted: Wanted) -> ModelUnavailable:
    return ModelUnavailable(
        f"this machine has no {wanted.model[:200]} with the digest {wanted.digest[:12]}"
    )
