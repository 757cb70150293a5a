"""The shelf: what is saved comes back bit for bit, or not at all."""

from __future__ import annotations

import copy
import errno
import os
import queue
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from cluster.core.cluster import ShardPlan
from cluster.core.errors import BadConfiguration, StepRefused
from cluster.core.ids import Entry, Rank
from cluster.core.shelf import ShelfNews, ShelfOrder, Verb
from cluster.engine import shelf_file
from cluster.engine.shelf import SAVES, STAGED, Shelf, open_shelf
from cluster.engine.slots import states

ENTRY = Entry("0123456789abcdef" * 2)
IDS = tuple(range(300))


class Desk:
    """A shelf and the news of it."""

    def __init__(self, folder: Path, key: str = "key") -> None:
        self.news: queue.Queue[ShelfNews] = queue.Queue()
        self.folder = folder
        self.shelf = Shelf(folder, key, self.news.put)

    def path(self, entry: Entry = ENTRY) -> Path:
        return self.folder / f"{entry}.safetensors"

    def save(self, caches: list[Any], entry: Entry = ENTRY) -> ShelfNews:
        self.shelf.save(entry, "scope", IDS, copy.deepcopy(caches))
        return self.news.get(timeout=30)

    def stage(self, entry: Entry = ENTRY) -> ShelfNews:
        self.shelf.stage(entry)
        return self.news.get(timeout=30)


@contextmanager
def desk_at(folder: Path, key: str = "key") -> Iterator[Desk]:
    desk = Desk(folder, key)
    try:
        yield desk
    finally:
        desk.shelf.close()
        assert not any(thread.is_alive() for thread in desk.shelf._threads)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_at(tmp_path / "shelf") as desk:
        yield desk


def filled(cache: Any, dtype: mx.Dtype, lengths: tuple[int, ...] = (250, 49, 1)) -> Any:
    """A cache after chunks of these lengths."""
    key = mx.random.key(7)
    for length in lengths:
        key, draw = mx.random.split(key)
        cache.update_and_fetch(*mx.random.normal((2, 1, 2, length, 64), key=draw).astype(dtype))
    return cache


def state_space(dtype: mx.Dtype) -> ArraysCache:
    cache = ArraysCache(3)
    cache[0] = mx.random.normal((1, 4, 32), key=mx.random.key(1)).astype(dtype)
    cache[1] = mx.random.normal((1, 4, 8, 16), key=mx.random.key(2)).swapaxes(1, 2)
    return cache


MAKERS: dict[str, Callable[[], Any]] = {
    "float32": lambda: filled(KVCache(), mx.float32),
    "float16": lambda: filled(KVCache(), mx.float16),
    "bfloat16": lambda: filled(KVCache(), mx.bfloat16),
    "full block": lambda: filled(KVCache(), mx.bfloat16, (256,)),
    "8 bits": lambda: filled(QuantizedKVCache(bits=8), mx.bfloat16),
    "4 bits": lambda: filled(QuantizedKVCache(group_size=32, bits=4), mx.float32),
    "window": lambda: filled(RotatingKVCache(max_size=64), mx.bfloat16, (40, 1, 30, 1, 1)),
    "wide window": lambda: filled(RotatingKVCache(max_size=512, keep=4), mx.float32, (30, 1, 1)),
    "chunks": lambda: filled(ChunkedKVCache(128), mx.float32),
    "states": lambda: state_space(mx.bfloat16),
    "list": lambda: CacheList(filled(KVCache(), mx.float32), state_space(mx.float16)),
}


def same(left: Any, right: Any) -> None:
    """Equal in all that a model sees, and after one more token."""
    assert type(left) is type(right)
    if isinstance(left, CacheList):
        for one, other in zip(left.caches, right.caches, strict=True):
            same(one, other)
        return
    if isinstance(left, ArraysCache):
        for one, other in zip(left.cache, right.cache, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                assert mx.array_equal(one, other)
        right[2] = mx.zeros((1,))  # as a model does with each state
        return
    for count in (1, 7):
        more = mx.random.normal((2, 1, 2, count, 64), key=mx.random.key(count))
        more = more.astype(left.keys.dtype if isinstance(left.keys, mx.array) else mx.float32)
        assert left.offset == right.offset
        for one, other in zip(
            states([Seen(left.update_and_fetch(*more))]),
            states([Seen(right.update_and_fetch(*more))]),
            strict=True,
        ):
            assert one.dtype == other.dtype
            assert mx.array_equal(one, other)


class Seen:
    def __init__(self, state: Any) -> None:
        self.state = state


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_saved_comes_back(tmp_path: Path, kind: str) -> None:
    caches = [MAKERS[kind](), MAKERS[kind]()]
    with desk_at(tmp_path) as desk:
        saved = desk.save(caches)
        assert (saved.verb, saved.entry, saved.ok) == (Verb.SAVE, ENTRY, True)
        assert saved.size == desk.path().stat().st_size
    with desk_at(tmp_path) as desk:  # another process, as it were
        (found,) = desk.shelf.contents()
        assert (found.entry, found.scope, found.ids) == (ENTRY, "scope", IDS)
        assert found.size == saved.size
        assert abs(found.used - time.time()) < 60
        assert desk.stage() == ShelfNews(Verb.STAGE, ENTRY, True, saved.size)
        back, length = desk.shelf.adopt(ENTRY)
        assert length == len(IDS)
        for left, right in zip(caches, back, strict=True):
            same(left, right)
        with pytest.raises(StepRefused, match="is not staged"):
            desk.shelf.adopt(ENTRY)


def test_only_what_the_cache_holds_is_written(desk: Desk) -> None:
    news = desk.save([filled(KVCache(), mx.float32, (257,))])
    assert news.size < 300 * 2 * 2 * 64 * 4  # the buffers have room for 512 positions


def test_a_save_sees_nothing_of_what_is_written_after_it(desk: Desk) -> None:
    before, after = filled(KVCache(), mx.float32), filled(KVCache(), mx.float32)
    desk.shelf.save(ENTRY, "", IDS, [copy.deepcopy(after)])
    after.trim(100)
    filled(after, mx.float32, (100,))
    mx.eval(after.state[:2])
    assert desk.news.get(timeout=30).ok
    assert desk.stage().ok
    ((back,), _) = desk.shelf.adopt(ENTRY)
    same(before, back)


def test_one_staging_serves_two_restores_that_change_it(desk: Desk) -> None:
    cache = filled(QuantizedKVCache(), mx.float32, (256,))
    desk.save([cache])
    assert desk.stage().ok
    assert desk.stage().ok
    ((one,), _), ((other,), _) = desk.shelf.adopt(ENTRY), desk.shelf.adopt(ENTRY)
    one.trim(10)
    filled(one, mx.float32, (10,))
    mx.eval(one.state[:2])
    same(cache, other)


def test_files_are_private(desk: Desk) -> None:
    desk.save([filled(KVCache(), mx.float32)])
    assert stat.S_IMODE(desk.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(desk.path().stat().st_mode) == 0o600


def test_no_flipped_bit_is_read(desk: Desk) -> None:
    desk.save([filled(KVCache(), mx.bfloat16, (3,)), state_space(mx.float32)])
    path = desk.path()
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*range(0, header, 7), header, *range(header, len(good), 97), len(good) - 1]
    for place in places:
        for bit in (0, 7):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=r"^it"):
                shelf_file.read(path)
    path.write_bytes(good)
    assert desk.stage().ok


def test_no_truncated_file_is_listed_or_read(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.save([filled(KVCache(), mx.bfloat16, (3,))])
    path = desk.path()
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for length in (0, 1, 8, 9, header - 1, header, header + 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert desk.shelf.contents() == ()
        assert path.name in capsys.readouterr().err
        news = desk.stage()
        assert (news.ok, news.full) == (False, False), length
        assert news.reason
        assert f"can't stage prefix {ENTRY}: it " in capsys.readouterr().err
    path.write_bytes(good + b"\0")
    assert desk.shelf.contents() == ()
    path.unlink()
    assert not desk.stage().ok
    with pytest.raises(StepRefused):
        desk.shelf.adopt(ENTRY)


def test_foreign_files_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with desk_at(tmp_path, "another key") as desk:
        desk.save([filled(KVCache(), mx.float32)])
    mx.save_safetensors(str(tmp_path / f"{'a' * 32}.safetensors"), {"x": mx.zeros((3,))})
    (tmp_path / f"{'b' * 32}.safetensors").write_bytes(os.urandom(4096))
    (tmp_path / "README").write_text("nothing")
    with desk_at(tmp_path) as desk:
        assert desk.shelf.contents() == ()
        words = capsys.readouterr().err
        assert words.count("\n") == 1
        assert ", and 2 more" in words
        news = desk.stage()
        assert not news.ok
        assert "another model" in news.reason
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_under_another_name_is_not_read(desk: Desk) -> None:
    desk.save([filled(KVCache(), mx.float32)])
    other = Entry("f" * 32)
    desk.path().rename(desk.path(other))
    assert desk.shelf.contents() == ()
    assert not desk.stage(other).ok


def test_a_folder_of_its_own_for_each_model_split_and_width(tmp_path: Path) -> None:
    one, two = ShardPlan(1, Rank(0)), ShardPlan(2, Rank(1), "tensor", "ring")
    pipeline = ShardPlan(2, Rank(1), "pipeline", "ring")
    shelves = [
        open_shelf(str(tmp_path), digest, plan, bits, print)
        for digest, plan, bits in (
            ("a", one, 0),
            ("b", one, 0),
            ("a", one, 8),
            ("a", two, 0),
            ("a", pipeline, 0),
        )
    ]
    assert len({shelf._folder for shelf in shelves}) == len(shelves)
    assert len({shelf._key for shelf in shelves}) == len(shelves)
    assert shelves[3]._folder.name == "rank1-of2"
    for shelf in shelves:
        shelf.close()


def test_orders(desk: Desk) -> None:
    desk.save([filled(KVCache(), mx.float32)])
    desk.shelf.order(ShelfOrder(Verb.STAGE, ENTRY))
    assert desk.news.get(timeout=30).ok
    desk.shelf.order(ShelfOrder(Verb.UNSTAGE, ENTRY))
    desk.shelf.order(ShelfOrder(Verb.UNSTAGE, ENTRY))
    with pytest.raises(StepRefused):
        desk.shelf.adopt(ENTRY)
    assert desk.stage().ok
    desk.shelf.order(ShelfOrder(Verb.DELETE, ENTRY))
    desk.shelf.order(ShelfOrder(Verb.DELETE, ENTRY))
    assert desk.save([filled(KVCache(), mx.float32)], Entry("e" * 32)).ok  # after the deletes
    assert not desk.path().exists()
    assert desk.shelf.adopt(ENTRY)[1] == len(IDS)
    with pytest.raises(StepRefused):
        desk.shelf.order(ShelfOrder(Verb.SAVE, ENTRY))


def test_no_more_than_so_many_are_staged(desk: Desk) -> None:
    entries = [Entry(f"{i:032x}") for i in range(STAGED + 1)]
    for entry in entries:
        assert desk.save([filled(KVCache(), mx.float32, (5,))], entry).ok
    assert all(desk.stage(entry).ok for entry in entries[:STAGED])
    desk.shelf.stage(entries[STAGED])
    with pytest.raises(queue.Empty):
        desk.news.get(timeout=0.1)
    desk.shelf.adopt(entries[0])
    assert desk.news.get(timeout=30) == replace(desk.stage(entries[1]), entry=entries[STAGED])
    # One that waits for room and is not wanted any more keeps nobody waiting.
    desk.shelf.stage(entries[0])
    desk.shelf.unstage(entries[0])
    news = desk.news.get(timeout=30)
    assert (news.entry, news.ok) == (entries[0], False)


def test_a_save_too_many_fails_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gate: queue.Queue[None] = queue.Queue()
    fsync = os.fsync

    def slow(file: Any) -> None:
        gate.get(timeout=30)
        fsync(file)

    monkeypatch.setattr("cluster.engine.shelf_file.os.fsync", slow)
    cache = filled(KVCache(), mx.float32)
    for i in range(SAVES):
        desk.shelf.save(Entry(f"{i:032x}"), "", IDS, [cache])
    desk.shelf.save(ENTRY, "", IDS, [cache])
    news = desk.news.get_nowait()
    assert (news.verb, news.entry, news.ok, news.full) == (Verb.SAVE, ENTRY, False, False)
    for _ in range(3 * SAVES):
        gate.put(None)
    assert [desk.news.get(timeout=30).ok for _ in range(SAVES)] == [True] * SAVES
    assert desk.save([cache]).ok


def test_a_cache_of_an_unknown_class(desk: Desk) -> None:
    class Odd:
        state = ()

    news = desk.save([Odd()])
    assert (news.ok, news.reason) == (False, "a Odd can't be written to disk")
    assert desk.save([filled(KVCache(), mx.float32)]).ok


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:

        def full(file: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("cluster.engine.shelf_file.os.fsync", full)
    try:
        with desk_at(folder) as desk:
            news = desk.save([filled(KVCache(), mx.float32, (4096,))])
            assert (news.ok, news.full) == (False, True)
            assert "No space left" in news.reason
            assert list(folder.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration, match=r"can't be kept in .*Not a directory.*--kv-dir"):
        Shelf(tmp_path / "file" / "shelf", "key", print)


SAVER = """
import sys, mlx.core as mx
from pathlib import Path
from mlx_lm.models.cache import KVCache
from cluster.core.ids import Entry
from cluster.engine.shelf import Shelf
shelf = Shelf(Path(sys.argv[1]), "key", lambda news: print(news.entry, flush=True))
caches = [KVCache() for _ in range(8)]
for cache in caches:
    cache.update_and_fetch(*(mx.ones((1, 8, 4096, 64)) for _ in range(2)))
for i in range(3):
    shelf.save(Entry(f"{i:032x}"), "", tuple(range(4096)), caches)
    sys.stdin.readline()
"""


def unfinished(folder: Path) -> bool:
    """A write has begun and is not over."""
    try:
        return any(path.stat().st_size > 1 << 20 for path in folder.glob(".*.tmp"))
    except FileNotFoundError:  # just renamed
        return False


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_writer_that_is_killed_leaves_whole_files_only(tmp_path: Path, whole: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for _ in range(whole):
        assert process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
    deadline = time.monotonic() + 60
    while not unfinished(tmp_path):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with desk_at(tmp_path) as desk:
        found = desk.shelf.contents()
        assert whole <= len(found) <= whole + 1  # the last may just have been done
        assert len(list(tmp_path.iterdir())) == len(found)
        for each in found:
            assert desk.stage(each.entry).ok
            caches, length = desk.shelf.adopt(each.entry)
            assert length == len(each.ids) == 4096
            assert mx.all(caches[7].keys == 1)


def test_a_living_writers_file_is_not_swept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync
    left: list[int] = []

    def sweeping(file: Any) -> None:
        shelf_file.sweep(desk.folder)
        left.append(len(list(desk.folder.glob(".*.tmp"))))
        fsync(file)

    monkeypatch.setattr("cluster.engine.shelf_file.os.fsync", sweeping)
    assert desk.save([filled(KVCache(), mx.float32)]).ok
    assert left[0] == 1
