"""Every start has a number above those before it, whatever the clock or the file does."""

from __future__ import annotations

import fcntl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.node.incarnation import next_incarnation


def test_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "incarnation"
    before = time.time_ns()
    first, second = next_incarnation(file), next_incarnation(file)
    assert before <= first < second <= time.time_ns() + 1
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_grows_when_the_clock_was_set_back(tmp_path: Path) -> None:
    file = tmp_path / "incarnation"
    ahead = time.time_ns() + 10**18
    file.write_text(f"{ahead}\n")
    assert next_incarnation(file) == ahead + 1
    assert next_incarnation(file) == ahead + 2


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"-5", b"9" * 60, b"\xff\xfe", b"1 2"])
def test_a_file_that_is_not_ours(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "incarnation"
    file.write_bytes(content)
    before = time.time_ns()
    number = next_incarnation(file)
    assert before <= number <= time.time_ns()
    assert file.read_text() == f"{number}\n"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file" / "incarnation", tmp_path):
        before = time.time_ns()
        assert before <= next_incarnation(bad) <= time.time_ns()


def test_a_lock_that_is_held_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "incarnation"
    next_incarnation(file)
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = time.time_ns()
        assert before <= next_incarnation(file) <= time.time_ns()


def test_together(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: next_incarnation(tmp_path / "i"), range(64)))
    assert len(set(numbers)) == 64
