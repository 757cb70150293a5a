"""Which chunk comes from which source: decided here, without I/O.

Whoever is ready takes the next chunk, so the faster of two sources gives more. A source that
gave wrong bytes is asked no more for that file; one that fails is asked for nothing more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.core.manifest import Manifest, ModelFile


@dataclass(frozen=True, order=True, slots=True)
class Chunk:
    """A part of a file."""

    file: str
    index: int


class Transfer:
    """The state of one transfer. A chunk is missing, in flight from one source, or verified."""

    def __init__(
        self,
        manifest: Manifest,
        sources: Sequence[str],
        verified: Iterable[Chunk] = (),
        without: Iterable[tuple[str, str]] = (),
    ) -> None:
        """`verified` are the chunks that are already on disk; `without` pairs a source with a
        file that it has not, or not as the manifest says."""
        self.files: dict[str, ModelFile] = {file.name: file for file in manifest.files}
        self.size = manifest.size
        self._verified = set(verified)
        self._missing: dict[str, deque[Chunk]] = {}
        """By file, in order; files that have none left are left out."""
        for file in manifest.files:
            every = (Chunk(file.name, index) for index in range(len(file.hashes)))
            if missing := deque(chunk for chunk in every if chunk not in self._verified):
                self._missing[file.name] = missing
        self._flying: set[tuple[str, Chunk]] = set()
        self._live = dict.fromkeys(sources)
        self._distrusted = set(without)
        self.troubles: list[str] = []
        """What went wrong, for people."""
        self.bytes = sum(self._length(chunk) for chunk in self._verified)
        """On disk and verified."""

    @property
    def live(self) -> tuple[str, ...]:
        """The sources that may be asked for something."""
        return tuple(self._live)

    @property
    def complete(self) -> bool:
        """Every chunk is verified."""
        return not self._missing and not self._flying

    @property
    def over(self) -> bool:
        """Nothing is in flight, and nobody can be asked for anything."""
        return not self._flying and not any(self._file_for(source) for source in self._live)

    @property
    def verified(self) -> frozenset[Chunk]:
        """The chunks that are on disk."""
        return frozenset(self._verified)

    def take(self, source: str) -> Chunk | None:
        """The chunk to ask `source` for next, now in flight; None when there is none now."""
        file = self._file_for(source)
        if file is None:
            return None
        chunk = self._missing[file].popleft()
        if not self._missing[file]:
            del self._missing[file]
        self._flying.add((source, chunk))
        return chunk

    def arrived(self, source: str, chunk: Chunk) -> None:
        """The chunk is verified and on disk."""
        self._flying.discard((source, chunk))
        if chunk not in self._verified:
            missing = self._missing.get(chunk.file)
            if missing and chunk in missing:  # given up on before it came after all
                missing.remove(chunk)
                if not missing:
                    del self._missing[chunk.file]
            self._verified.add(chunk)
            self.bytes += self._length(chunk)

    def wrong(self, source: str, chunk: Chunk) -> None:
        """What `source` gave is not the chunk that the manifest speaks of."""
        self.troubles.append(f"{source} gave a damaged chunk {chunk.index} of {chunk.file}")
        self._distrusted.add((source, chunk.file))
        self._put_back(source, chunk)

    def failed(self, source: str, reason: str) -> None:
        """`source` can't be asked any more; what it was asked for is missing again."""
        if source in self._live:
            del self._live[source]
            self.troubles.append(reason)
        for flying in [flying for flying in self._flying if flying[0] == source]:
            self._put_back(*flying)

    def lost(self) -> str:
        """For people: what is missing, and why."""
        names = sorted({*self._missing, *(chunk.file for _, chunk in self._flying)})
        left = self.size - self.bytes
        files = f"{names[0]} and {len(names) - 1} more files" if len(names) > 1 else names[0]
        why = "; ".join(dict.fromkeys(self.troubles)) or "there is no source"
        return f"{left} of {self.size} bytes are missing, in {files}: {why}"

    def _file_for(self, source: str) -> str | None:
        """The first file with a missing chunk that `source` may be asked for."""
        if source not in self._live:
            return None
        for file in self._missing:
            if (source, file) not in self._distrusted:
                return file
        return None

    def _put_back(self, source: str, chunk: Chunk) -> None:
        if (source, chunk) in self._flying:
            self._flying.remove((source, chunk))
            self._missing.setdefault(chunk.file, deque()).appendleft(chunk)

    def _length(self, chunk: Chunk) -> int:
        return self.files[chunk.file].length(chunk.index)
