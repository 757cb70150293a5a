from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.convert.chrome_trace import chrome_trace
from cluster.cli.main import build
from tests.unit.api.traced import OWN, a_timeline
from tests.unit.cli.canned import CannedServer


def body() -> dict[str, Any]:
    timeline = a_timeline()
    return chrome_trace(timeline, "ab" * 16)


def invoke(server: CannedServer, *options: str) -> Result:
    return CliRunner().invoke(build("trace"), ["trace", "--url", server.url, *options])


def test_the_file_is_called_after_the_request(
    server: CannedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answers["/requests/last/trace"] = (200, body())
    result = invoke(server, "--last")
    assert result.exit_code == 0
    assert json.loads((tmp_path / f"{OWN}.trace.json").read_text()) == body()
    assert "10.000 s  in all" in result.stdout
    assert "3.940 s   39.4%  computing it" in result.stdout
    assert "ui.perfetto.dev" in result.stdout


def test_one_request_into_a_file_or_to_stdout(server: CannedServer, tmp_path: Path) -> None:
    server.answers["/requests/a%2Fb/trace"] = (200, body())
    path = tmp_path / "x.json"
    assert invoke(server, "a/b", "-o", str(path)).exit_code == 0
    assert json.loads(path.read_text()) == body()
    assert json.loads(invoke(server, "a/b", "-o", "-").stdout) == body()


@pytest.mark.parametrize("options", [(), ("chatcmpl-1", "--last")])
def test_one_request_is_meant(server: CannedServer, options: tuple[str, ...]) -> None:
    result = invoke(server, *options)
    assert result.exit_code == 1
    assert "--last" in result.output


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((404, {"error": {"message": "no request was traced"}}), "no request was traced"),
        ((200, {"data": []}), "no trace that this"),
    ],
)
def test_a_wrong_answer_is_one_line(
    server: CannedServer, answer: tuple[int, Any], line: str
) -> None:
    server.answers["/requests/last/trace"] = answer
    result = invoke(server, "--last", "-o", "/nowhere/at/all.json")
    assert result.exit_code == 1
    assert line in result.output


def test_a_file_that_can_not_be_written_is_one_line(server: CannedServer, tmp_path: Path) -> None:
    server.answers["/requests/last/trace"] = (200, body())
    result = invoke(server, "--last", "-o", str(tmp_path / "no" / "such" / "folder"))
    assert result.exit_code == 1
    assert "can't write" in result.output
