from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import structlog

from api.keys import Key, KeyRing, add_key, digest_of, key_path, read_keys, revoke_key
from cluster.core.clock import ManualClock
from cluster.core.errors import BadConfiguration


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tandem" / "keys.json"


def test_a_key_is_kept_as_its_digest_only(path: Path) -> None:
    key = add_key(path, "laptop", concurrency=2, per_minute=60)
    assert len(key) == 47
    assert key.startswith("tdm_")
    assert key not in path.read_text()
    (entry,) = read_keys(path)
    assert (entry.name, entry.concurrency, entry.per_minute) == ("laptop", 2, 60)
    assert entry.sha256 == digest_of(key.encode())


def test_only_its_owner_reads_the_file_and_no_other_is_left(path: Path) -> None:
    for name in ("a", "b"):
        add_key(path, name)
    revoke_key(path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["keys.json"]
    assert [key.name for key in read_keys(path)] == ["b"]


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere.json")
    add_key(path, "a")
    assert path.is_symlink()
    assert len(read_keys(tmp_path / "elsewhere.json")) == 1


@pytest.mark.parametrize("name", ["", "a b", "a\n", "x" * 65, "a/b", "[bold]"])
def test_names_that_are_none(path: Path, name: str) -> None:
    with pytest.raises(BadConfiguration, match="no name for a key"):
        add_key(path, name)
    assert not path.exists()


def test_a_name_is_taken_once_and_can_be_taken_again(path: Path) -> None:
    first = add_key(path, "a")
    with pytest.raises(BadConfiguration, match="there is a key a already"):
        add_key(path, "a")
    revoke_key(path, "a")
    with pytest.raises(BadConfiguration, match="there is no key a"):
        revoke_key(path, "a")
    assert add_key(path, "a") != first


ENTRY = {"name": "a", "sha256": "0" * 64, "created": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"keys": [{"name": "a"}]}', "keys.0.sha256"),
        (json.dumps({"keys": [{**ENTRY, "concurrency": 0}]}), "keys.0.concurrency"),
        (json.dumps({"keys": [{**ENTRY, "admin": True}]}), "keys.0.admin"),
        (json.dumps({"keys": [ENTRY, ENTRY]}), "two keys of one name"),
    ],
)
def test_files_that_are_no_key_files(path: Path, content: str, reason: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(BadConfiguration, match=reason):
        read_keys(path)
    with pytest.raises(BadConfiguration, match=reason):  # and nothing of it is overwritten
        add_key(path, "b")
    assert path.read_text() == content


def test_a_folder_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="can't read the key file"):
        read_keys(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadConfiguration, match="can't use the folder"):
        add_key(tmp_path / "file" / "keys.json", "a")


def _add_many(path: Path, prefix: str) -> None:
    for number in range(5):
        add_key(path, f"{prefix}{number}")


def test_two_that_add_at_once_lose_nothing(path: Path) -> None:
    fork = multiprocessing.get_context("forkserver")
    others = [fork.Process(target=_add_many, args=(path, prefix)) for prefix in "ab"]
    for other in others:
        other.start()
    for other in others:
        other.join(30)
    assert len(read_keys(path)) == 10


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert key_path(None) == Path("/somewhere/.config/tandem/keys.json")
    assert key_path(Path("~/k.json")) == Path("/somewhere/k.json")


class TestKeyRing:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    def test_finds_keys_by_what_clients_send(self, path: Path, clock: ManualClock) -> None:
        key = add_key(path, "a").encode()
        ring = KeyRing(path, clock)
        found = ring.find(key)
        assert isinstance(found, Key) and found.name == "a"
        for wrong in (b"", key[:-1], key + b"x", b"\xff", digest_of(key).encode()):
            assert ring.find(wrong) is None

    def test_follows_its_file_within_a_second(self, path: Path, clock: ManualClock) -> None:
        ring = KeyRing(path, clock)
        assert len(ring) == 0
        key = add_key(path, "a").encode()
        clock.advance(0.9)
        assert ring.find(key) is None
        clock.advance(0.1)
        assert ring.find(key)
        revoke_key(path, "a")
        clock.advance(1)
        assert ring.find(key) is None

    def test_looks_once_a_second(
        self, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_key(path, "a")
        ring = KeyRing(path, clock)
        looks = []
        monkeypatch.setattr("cluster.trust.files.stamp", looks.append)
        for _ in range(20):
            clock.advance(0.25)
            ring.find(b"x")
        assert len(looks) == 5

    def test_a_broken_file_changes_nothing_and_is_told_once(
        self, path: Path, clock: ManualClock
    ) -> None:
        key = add_key(path, "a").encode()
        ring = KeyRing(path, clock)
        path.write_text("{")
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                clock.advance(1)
                assert ring.find(key)
        assert [line["log_level"] for line in logs] == ["error"]
        assert "keys.json" in logs[0]["reason"]

    def test_a_file_that_is_gone_lets_nobody_in(self, path: Path, clock: ManualClock) -> None:
        key = add_key(path, "a").encode()
        ring = KeyRing(path, clock)
        path.unlink()
        clock.advance(1)
        assert ring.find(key) is None

    def test_a_broken_file_is_refused_at_the_start(self, path: Path, clock: ManualClock) -> None:
        path.parent.mkdir()
        path.write_text("{")
        with pytest.raises(BadConfiguration):
            KeyRing(path, clock)
