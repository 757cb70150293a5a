"""The file of one prefix: safetensors, written so that it is whole or not there.

Names, token ids and the caches' layout are in the header, the caches' arrays are tensors, and
the last tensor is a CRC-32 of all bytes before it: one pass writes the file, and any flipped
bit is found when it is read. Values go in and out as unsigned integers of the same width
(numpy has no bfloat16); the header names their real type.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 4 << 20
"""Bytes that are written or read at once."""
MOST_HEADER = 64 << 20
"""Bytes; a longer header is none of ours."""
CHECKSUM = "checksum"
WIDTHS = {"U8": 1, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
"""Bytes of one value of each safetensors type."""
_CARRIERS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of a cache: its safetensors type, and its bits as unsigned integers."""

    dtype: str
    bits: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Label:
    """What a file says of itself."""

    key: str
    """Which engines may read it (shelf.py)."""
    entry: str
    scope: str
    ids: tuple[int, ...]
    layout: str
    """JSON: how the tensors make up the caches (packing.py)."""


def write(path: Path, label: Label, tensors: Sequence[Tensor]) -> int:
    """Write a file and put it at `path` once it is on the disk; returns its bytes.

    Readable by its owner only. Raises OSError; then nothing is left behind, unless the process
    dies, and `sweep` removes that.
    """
    header = _header(label, tensors)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _write(file, header, tensors)
            os.fsync(file)
            scratch.rename(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    _sync(path.parent)
    return size


def read_label(path: Path) -> tuple[Label, int]:
    """The label of a file and its bytes. Raises OSError, or ValueError when it is no such file
    or not as long as it says."""
    with path.open("rb", buffering=0) as file:
        label, _, _, size = _read_header(file)
    return label, size


def read(path: Path) -> tuple[Label, list[Tensor], int]:
    """All of a file, checked, and its bytes. Raises OSError, or ValueError when a bit of it is
    not what was written."""
    with path.open("rb", buffering=0) as file:
        label, shapes, crc, size = _read_header(file)
        tensors = []
        before = crc
        for dtype, shape in shapes:
            bits = np.empty(shape, _CARRIERS[WIDTHS[dtype]])
            before, crc = crc, _read_into(file, bits, crc)
            tensors.append(Tensor(dtype, bits))
    *arrays, checksum = tensors
    if int(checksum.bits[0]) != before:
        raise ValueError("its checksum is wrong")
    return label, arrays, size


def sweep(folder: Path) -> None:
    """Remove what writers that have died left unfinished."""
    for scratch in folder.glob(".*.tmp"):
        with suppress(OSError), scratch.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a living writer holds it
            scratch.unlink()


def _header(label: Label, tensors: Sequence[Tensor]) -> bytes:
    table: dict[str, Any] = {
        "__metadata__": {
            "key": label.key,
            "entry": label.entry,
            "scope": label.scope,
            "ids": base64.b64encode(np.array(label.ids, "<u4").tobytes()).decode(),
            "layout": label.layout,
        }
    }
    place = 0
    shapes = [(tensor.dtype, tensor.bits.shape) for tensor in tensors]
    for i, (dtype, shape) in enumerate([*shapes, ("U32", (1,))]):
        name = str(i) if i < len(tensors) else CHECKSUM
        end = place + WIDTHS[dtype] * prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise OSError(f"a prefix of {len(label.ids)} tokens is too long to be saved")
    return len(text).to_bytes(8, "little") + text


def _write(file: FileIO, header: bytes, tensors: Sequence[Tensor]) -> int:
    size, crc = 0, 0
    arrays = chain.from_iterable(_pieces(tensor.bits) for tensor in tensors)
    for piece in chain([memoryview(header)], arrays):
        crc = zlib.crc32(piece, crc)
        size += _write_all(file, piece)
    return size + _write_all(file, memoryview(crc.to_bytes(4, "little")))


def _write_all(file: FileIO, data: memoryview) -> int:
    rest = data
    while rest:
        rest = rest[file.write(rest) :]
    return len(data)


def _pieces(bits: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of an array, in order, about PIECE at a time: it may be a view with gaps, and
    is never copied as a whole."""
    if not bits.size:
        return
    if bits.ndim == 0 or bits.nbytes <= PIECE:
        yield np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data
        return
    rows = PIECE // (bits.nbytes // bits.shape[0])
    for i in range(0, bits.shape[0], max(1, rows)):
        yield from _pieces(bits[i : i + rows] if rows else bits[i])


def _read_header(file: FileIO) -> tuple[Label, list[tuple[str, tuple[int, ...]]], int, int]:
    """Label, type and shape of each tensor, CRC-32 so far, and the size of the file."""
    size = os.fstat(file.fileno()).st_size
    length = file.read(8)
    count = int.from_bytes(length, "little")
    if len(length) < 8 or not 0 < count <= min(size - 8, MOST_HEADER):
        raise ValueError("it is cut short or no safetensors file")
    text = file.read(count)
    try:
        table = json.loads(text)
        about = table.pop("__metadata__")
        ids = np.frombuffer(base64.b64decode(about["ids"], validate=True), "<u4")
        fields = [about[name] for name in ("key", "entry", "scope", "layout")]
        shapes, end = _shapes(table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is not one of ours ({error!r})") from error
    if not all(isinstance(field, str) for field in fields):
        raise ValueError("its header is not one of ours")
    if size != 8 + count + end:
        raise ValueError(f"it has {size} bytes instead of {8 + count + end}")
    key, entry, scope, layout = fields
    label = Label(key, entry, scope, tuple(ids.tolist()), layout)
    return label, shapes, zlib.crc32(text, zlib.crc32(length)), size


def _shapes(table: dict[str, Any]) -> tuple[list[tuple[str, tuple[int, ...]]], int]:
    """Type and shape of each tensor, the checksum's last, and where the last one ends."""
    shapes = []
    place = 0
    for i, (name, about) in enumerate(table.items()):
        dtype, shape = about["dtype"], tuple(about["shape"])
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"shape {shape}")
        end = place + WIDTHS[dtype] * prod(shape)
        if about["data_offsets"] != [place, end]:
            raise ValueError(f"tensor {name} is not at {place}")
        if name != (str(i) if i < len(table) - 1 else CHECKSUM):
            raise ValueError(f"tensor {name}")
        shapes.append((dtype, shape))
        place = end
    if not shapes or shapes[-1] != ("U32", (1,)):
        raise ValueError("it has no checksum")
    return shapes, place


def _read_into(file: FileIO, bits: NDArray[Any], crc: int) -> int:
    """Fill `bits`; returns the CRC-32 `crc` carried on over their bytes."""
    whole = bits.reshape(-1).view(np.uint8).data
    place = 0
    while place < len(whole):
        count = file.readinto(whole[place : place + PIECE])
        if not count:
            raise ValueError("it is cut short")
        crc = zlib.crc32(whole[place : place + count], crc)
        place += count
    return crc


def _sync(folder: Path) -> None:
    """Make a rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
