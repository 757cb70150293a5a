"""What the weights of a model are made of, so that they can be moved between machines."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cluster.core.cluster import ShardPlan
from cluster.core.errors import ProtocolError

CHUNK = 16 << 20
"""Bytes that are asked for, verified and written as one."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_digest(text: str) -> bool:
    """True for what a model's digest looks like, which can be a folder's name."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, or what one rank keeps of it: what agents ask each other for.

    Raises ProtocolError when it names no digest or no part: `name` is safe to be a folder's.
    """

    model: str
    """Local folder, Hugging Face id, or "demo", as whoever began it calls it."""
    digest: str
    """Of the whole model; what is found under the name `model` counts only if it has this."""
    cut: ShardPlan | None = None
    """Only this rank's part; None for the whole folder."""

    def __post_init__(self) -> None:
        if not is_digest(self.digest):
            raise ProtocolError(f"{self.digest[:80]!r} is no digest of a model")
        cut = self.cut
        if cut and not (0 <= cut.rank < cut.world and cut.kind in ("tensor", "pipeline")):
            raise ProtocolError(f"a {cut.kind[:80]!r} cut for rank {cut.rank} of {cut.world}")
        if cut and cut.layers and not (len(cut.layers) == cut.world and min(cut.layers) > 0):
            raise ProtocolError(f"{len(cut.layers)} stages for {cut.world} ranks")

    @property
    def name(self) -> str:
        """Of its folder among others; the same for all names that a model goes by."""
        if self.cut is None:
            return self.digest
        part = f"{self.digest}-{self.cut.kind}-{self.cut.rank}-of-{self.cut.world}"
        if not self.cut.layers:
            return part
        stages = hashlib.sha256(repr(self.cut.layers).encode()).hexdigest()[:16]
        return f"{part}-{stages}"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model folder."""

    name: str
    """Without any folder."""
    size: int
    hashes: tuple[bytes, ...]
    """SHA-256 of each chunk; all are CHUNK bytes long but the last."""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of its size and its chunks' hashes: equal for equal content."""
        return hashlib.sha256(self.size.to_bytes(8, "little") + b"".join(self.hashes)).hexdigest()

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return min(CHUNK, self.size - index * CHUNK)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files that are needed to load a model, or a part of it."""

    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of names and content: equal exactly for folders of equal files."""
        lines = sorted(f"{file.name} {file.digest}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
