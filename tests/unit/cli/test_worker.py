from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio.lowlevel
import pytest
from typer.testing import CliRunner

from cluster.cli.main import build
from cluster.core.errors import NodeUnreachable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options of the calls of a stand-in for run_worker."""
    for name in ("TANDEM_JOIN_TOKEN", "TANDEM_TRUST"):
        monkeypatch.delenv(name, raising=False)
    calls: list[dict[str, Any]] = []

    async def run_worker(**options: Any) -> None:
        calls.append(options)
        if options["join"] == "nowhere:1":
            raise NodeUnreachable("nowhere:1 does not answer")
        options["say"]("joined")
        if options["join"] == "signal:15":
            try:
                await anyio.lowlevel.checkpoint()  # by then, signals are listened to
                os.kill(os.getpid(), signal.SIGTERM)
                await anyio.sleep(10)
            finally:
                options["say"]("engines are gone")

    module = ModuleType("cluster.node.worker")
    module.run_worker = run_worker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cluster.node.worker", module)
    return calls


def test_defaults(calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(build("worker"), ["worker"])
    assert (result.exit_code, result.stderr) == (0, "joined\n")
    del calls[0]["say"]
    assert calls == [
        {
            "join": None,
            "host": None,
            "port": 8644,
            "token": None,
            "trust": None,
            "orphan_grace": 600.0,
            "kv_dir": "",
        }
    ]


def test_options_reach_the_worker(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    line = f"worker --join a:8643 --host 10.0.0.2 --port 0 --token-file {tmp_path}/token"
    result = CliRunner().invoke(
        build("worker"),
        [*line.split(), "--orphan-grace", "5", "--kv-dir", "/kv", "--trust", "/trust"],
    )
    assert result.exit_code == 0
    del calls[0]["say"]
    assert calls == [
        {
            "join": "a:8643",
            "host": "10.0.0.2",
            "port": 0,
            "token": "secret",
            "trust": Path("/trust"),
            "orphan_grace": 5.0,
            "kv_dir": "/kv",
        }
    ]


def test_a_server_that_is_away_is_one_line(calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(build("worker"), ["worker", "--join", "nowhere:1"])
    assert (result.exit_code, result.stderr) == (1, "tandem: nowhere:1 does not answer\n")


def test_a_token_file_that_is_missing_is_one_line(
    calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = CliRunner().invoke(build("worker"), ["worker", "--token-file", f"{tmp_path}/none"])
    assert result.exit_code == 1
    assert "can't read the join token" in result.stderr
    assert calls == []


def test_the_token_comes_from_the_environment(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_JOIN_TOKEN", "secret")
    assert CliRunner().invoke(build("worker"), ["worker"]).exit_code == 0
    assert calls[0]["token"] == "secret"


def test_the_token_on_the_command_line(calls: list[dict[str, Any]]) -> None:
    line = "worker --join a:8643 --token secret"
    assert CliRunner().invoke(build("worker"), line.split()).exit_code == 0
    assert calls[0]["token"] == "secret"


def test_sigterm_is_an_orderly_end(calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(build("worker"), ["worker", "--join", "signal:15"])
    assert (result.exit_code, result.stderr) == (0, "joined\nstopping\nengines are gone\n")
