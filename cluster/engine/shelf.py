"""The shelf: this rank's part of the prefixes that are kept on disk.

Writing and reading have a thread each, so that neither keeps decoding waiting, nor a long save
a request that waits for its prefix. What has become of an order is told by a callback; nothing
here decides (cluster/core/shelf.py).
"""

from __future__ import annotations

import errno
import os
import queue
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Condition, Lock, Thread

import mlx.core as mx
import numpy as np

from cluster.core.cluster import ShardPlan
from cluster.core.errors import BadConfiguration, StepRefused
from cluster.core.ids import Entry
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.core.versions import versions
from cluster.engine import shelf_file
from cluster.engine.packing import pack, unpack
from cluster.engine.shelf_file import Label, Tensor
from cluster.engine.slots import Caches, start

FORMAT = 1
"""Grows when files of the version before would be misread."""
SAVES = 2
"""Saves that may wait or be under way: each holds on to the memory of its caches."""
STAGED = 4
"""Entries that may be in memory at the same time; more wait on disk until there is room."""
ORDERS = 4096
"""Orders that may wait for one thread."""
CLOSE_SECONDS = 5.0
ROOM_SECONDS = 1.0
"""The reader looks for room this often, even if it was not told of any."""
SUFFIX = ".safetensors"

_TYPES = {
    "U8": mx.uint8,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "F32": mx.float32,
}
_CARRIERS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}
"""Types in which bits leave and enter MLX, by width."""


@dataclass(frozen=True, slots=True)
class _Save:
    """To be written. Its arrays are nobody else's."""

    label: Label
    dtypes: tuple[str, ...]
    bits: list[mx.array]


@dataclass(slots=True)
class _Staged:
    """An entry in memory, or on its way there."""

    wanted: int = 0
    """Restores it was ordered for."""
    label: Label | None = None
    """None until it has been read."""
    size: int = 0
    dtypes: tuple[str, ...] = ()
    bits: tuple[mx.array, ...] = ()


class Shelf:
    """The files of one engine, in a folder of its own. All but `adopt` and `save`, which are
    for the engine thread, may be called from any thread; none but `contents` waits for the disk."""

    def __init__(self, folder: Path, key: str, on_news: Callable[[ShelfNews], None]) -> None:
        """Files in `folder`, which is made if missing, are read if they bear `key`. `on_news` is
        called on any thread. Raises BadConfiguration when the folder can't be written to."""
        self._folder = folder
        self._key = key
        self._on_news = on_news
        self._lock = Lock()
        self._saving = 0
        self._staged: dict[Entry, _Staged] = {}
        self._room = Condition(self._lock)
        """Notified when fewer are staged, or none will be any more."""
        self._closing = False
        self._writes: queue.Queue[_Save | Entry | None] = queue.Queue(ORDERS)
        """Saves, and entries to be deleted, in order; None at the end."""
        self._reads: queue.Queue[Entry | None] = queue.Queue(ORDERS)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise BadConfiguration(
                f"prefixes can't be kept in {folder} ({error.strerror}): "
                "choose another folder with --kv-dir"
            ) from error
        self._threads = [
            Thread(target=body, name=name, daemon=True)
            for name, body in (("shelf writer", self._write), ("shelf reader", self._read))
        ]
        for thread in self._threads:
            thread.start()

    def contents(self) -> tuple[Shelved, ...]:
        """What is on disk, by the files' headers; removes what dead writers left. Files that
        can't be used are named in one line on stderr, and stay."""
        found: list[Shelved] = []
        wrong: list[str] = []
        shelf_file.sweep(self._folder)
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                label, size = shelf_file.read_label(path)
                self._check(label, path.name.removesuffix(SUFFIX))
                used = path.stat().st_mtime
            except FileNotFoundError:
                continue  # deleted by another engine that shares the folder
            except (OSError, ValueError) as error:
                wrong.append(f"{path.name}: {error}")
            else:
                found.append(Shelved(Entry(label.entry), label.scope, label.ids, size, used))
        if wrong:
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            _warn(f"a saved prefix in {self._folder} is not used: {wrong[0]}{more}")
        return tuple(found)

    def order(self, order: ShelfOrder) -> None:
        """Stage, unstage or delete an entry; the first is answered by news."""
        match order.verb:
            case Verb.STAGE:
                self.stage(order.entry)
            case Verb.UNSTAGE:
                self.unstage(order.entry)
            case Verb.DELETE:
                self.delete(order.entry)
            case Verb.SAVE:
                raise StepRefused("a save is ordered by a step")

    def save(self, entry: Entry, scope: str, ids: tuple[int, ...], caches: Caches) -> None:
        """Write `caches`, which hold the positions of `ids`, in the background.

        Nothing is copied: the buffers are shared until somebody else writes to them, and those
        behind it are computed by MLX in its turn. At most SAVES at once; one more fails.
        """
        with self._lock:
            busy = self._saving >= SAVES
            self._saving += not busy
        if busy:
            self._tell(Verb.SAVE, entry, f"{SAVES} saves are under way")
            return
        try:
            layout, arrays = pack(caches)
            dtypes = tuple(_name(array.dtype) for array in arrays)
            bits = [array.view(_CARRIERS[array.dtype.size]) for array in arrays]
            start(bits)
            label = Label(self._key, entry, scope, ids, layout)
            self._writes.put_nowait(_Save(label, dtypes, bits))
        except (ValueError, queue.Full) as error:
            with self._lock:
                self._saving -= 1
            self._tell(Verb.SAVE, entry, str(error) or "too many orders")

    def stage(self, entry: Entry) -> None:
        """Read `entry` and keep it in memory for one more restore; news say how it went."""
        with self._lock:
            self._staged.setdefault(entry, _Staged()).wanted += 1
        try:
            self._reads.put_nowait(entry)
        except queue.Full:
            self.unstage(entry)
            self._tell(Verb.STAGE, entry, "too many orders")

    def unstage(self, entry: Entry) -> None:
        """One restore fewer; with the last one, its memory is free. Unknown entries are fine."""
        with self._lock:
            self._drop(entry)

    def delete(self, entry: Entry) -> None:
        """Remove its file, after the saves before; what is in memory stays."""
        try:
            self._writes.put_nowait(entry)
        except queue.Full:
            _warn(f"{self._path(entry)} is not deleted: too many orders")

    def adopt(self, entry: Entry) -> tuple[Caches, int]:
        """The caches of a staged entry and how many positions they hold, for one restore.
        Raises StepRefused when it is not staged."""
        with self._lock:
            staged = self._staged.get(entry)
            if staged is None or staged.label is None:
                raise StepRefused(f"entry {entry} is not staged")
            self._drop(entry)
        arrays = [
            bits.view(_TYPES[dtype]) for dtype, bits in zip(staged.dtypes, staged.bits, strict=True)
        ]
        return unpack(staged.label.layout, arrays), len(staged.label.ids)

    def retire(self) -> None:
        """Another shelf is opened on the same folder: read nothing more, and end both threads
        once what was ordered is written and deleted. What is staged may still be adopted."""
        with self._lock:
            for entry in [entry for entry, each in self._staged.items() if each.label is None]:
                del self._staged[entry]
        self.close(0.0)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End both threads once they have done what was ordered, or after `seconds` leave what
        is unfinished to the next `contents`."""
        for waiting in (self._writes, self._reads):
            with suppress(queue.Full):
                waiting.put_nowait(None)
        with self._room:
            self._closing = True
            self._room.notify()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # The threads

    def _write(self) -> None:
        while (work := self._writes.get()) is not None:
            if isinstance(work, _Save):
                self._save(work)
            else:
                self._delete(work)
            del work  # its arrays, before the next wait

    def _save(self, save: _Save) -> None:
        entry = Entry(save.label.entry)
        try:
            tensors = [
                Tensor(dtype, np.asarray(memoryview(bits)))  # type: ignore[arg-type]
                for dtype, bits in zip(save.dtypes, save.bits, strict=True)
            ]
            size = shelf_file.write(self._path(entry), save.label, tensors)
        except (OSError, RuntimeError) as error:  # the latter is MLX's
            news = _failed(Verb.SAVE, entry, error)
        else:
            news = ShelfNews(Verb.SAVE, entry, True, size)
        with self._lock:
            self._saving -= 1
        self._on_news(news)

    def _delete(self, entry: Entry) -> None:
        try:
            self._path(entry).unlink(missing_ok=True)
        except OSError as error:
            _warn(f"{self._path(entry)} can't be deleted: {error}")

    def _read(self) -> None:
        while (entry := self._reads.get()) is not None:
            staged = self._wanted(entry)
            if staged is None:
                self._tell(Verb.STAGE, entry, "it is not wanted any more")
                continue
            try:
                if staged.label is None:
                    self._load(entry, staged)
            except (OSError, ValueError, RuntimeError, MemoryError) as error:
                with self._lock:
                    if self._staged.get(entry) is staged:
                        del self._staged[entry]
                self._on_news(_failed(Verb.STAGE, entry, error))
            else:
                self._on_news(ShelfNews(Verb.STAGE, entry, True, staged.size))

    def _wanted(self, entry: Entry) -> _Staged | None:
        """What is to be staged, once there is room for it; None when nobody wants it by then."""
        with self._room:
            while (staged := self._staged.get(entry)) is not None and not self._closing:
                others = sum(each.label is not None for each in self._staged.values())
                if staged.label is not None or others < STAGED:
                    return staged
                self._room.wait(ROOM_SECONDS)
        return None

    def _load(self, entry: Entry, staged: _Staged) -> None:
        """Read a file into `staged`; raises what is wrong with it."""
        path = self._path(entry)
        label, tensors, size = shelf_file.read(path)
        self._check(label, entry)
        bits = tuple(mx.array(tensor.bits) for tensor in tensors)
        unpack(label.layout, bits)  # so that a restore can't fail
        with suppress(OSError):
            os.utime(path)
        with self._lock:
            staged.bits, staged.size = bits, size
            staged.dtypes = tuple(tensor.dtype for tensor in tensors)
            staged.label = label

    # Both

    def _path(self, entry: Entry) -> Path:
        return self._folder / f"{entry}{SUFFIX}"

    def _check(self, label: Label, entry: str) -> None:
        if label.key != self._key:
            raise ValueError("it was written for another model, split or version")
        if label.entry != entry:
            raise ValueError(f"it is entry {label.entry}")

    def _drop(self, entry: Entry) -> None:
        staged = self._staged.get(entry)
        if staged is None:
            return
        staged.wanted -= 1
        if not staged.wanted:
            del self._staged[entry]
            self._room.notify()

    def _tell(self, verb: Verb, entry: Entry, reason: str) -> None:
        self._on_news(ShelfNews(verb, entry, False, reason=reason))


def open_shelf(
    folder: str,
    model_digest: str,
    plan: ShardPlan,
    kv_bits: int,
    on_news: Callable[[ShelfNews], None],
) -> Shelf:
    """The shelf of one rank below `folder`: apart from those of all other models, splits, ranks
    and versions. Raises BadConfiguration when it can't be written to."""
    kind = [FORMAT, versions().mlx_lm, model_digest, plan.kind, plan.world, kv_bits, *plan.layers]
    key = blake2b(repr(kind).encode(), digest_size=16).hexdigest()
    place = Path(folder) / key / f"rank{plan.rank}-of{plan.world}"
    return Shelf(place, f"{key}/{place.name}", on_news)


def _name(dtype: mx.Dtype) -> str:
    """The safetensors name of a type; raises ValueError for one that no cache has."""
    for name, known in _TYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"{dtype} can't be written to disk")


def _failed(verb: Verb, entry: Entry, error: Exception) -> ShelfNews:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full:  # of which the coordinator speaks, once
        _warn(f"can't {verb} prefix {entry}: {error}")
    return ShelfNews(verb, entry, False, full=full, reason=str(error))


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
