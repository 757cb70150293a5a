from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.keys import digest_of, read_keys
from cluster.cli.main import build


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("TANDEM_KEY_FILE", str(path))
    return path


def key(*arguments: str) -> Result:
    return CliRunner().invoke(build("key"), ["key", *arguments])


def test_a_key_is_printed_alone_and_once(path: Path) -> None:
    added = key("add", "laptop", "--concurrency", "2", "--per-minute", "60")
    assert added.exit_code == 0
    printed = added.stdout.strip()
    assert [entry.sha256 for entry in read_keys(path)] == [digest_of(printed.encode())]
    assert "only time" in added.stderr
    assert added.stderr.count("\n") == 1
    listed = key("list")
    assert listed.exit_code == 0
    assert printed not in listed.stdout
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["name", "laptop"]
    assert listed.stdout.split()[-2:] == ["2", "60"]


def test_revoke(path: Path) -> None:
    key("add", "a")
    assert key("revoke", "a").exit_code == 0
    assert read_keys(path) == ()
    assert "no keys" in key("list").stderr


def test_another_file(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    key("add", "a", "--key-file", str(other))
    assert [len(read_keys(file)) for file in (path, other)] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("add",), "tandem: which key? `tandem key add NAME`"),
        (("revoke",), "tandem: which key? `tandem key revoke NAME`"),
        (("revoke", "a"), "tandem: there is no key a"),
        (("add", "a b"), "tandem: 'a b' is no name"),
        (("list", "a"), "tandem: `tandem key list` takes no name"),
        (
            ("list", "--per-minute", "1"),
            "tandem: --concurrency, --per-minute and --operator belong",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(path: Path, arguments: tuple[str, ...], line: str) -> None:
    result = key(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


def test_an_unknown_action_is_a_usage_error(path: Path) -> None:
    assert key("frob").exit_code == 2
    assert key("add", "a", "--per-minute", "0").exit_code == 2
