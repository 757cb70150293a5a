from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import evidence
from cluster.cli.doctor import Seen
from cluster.cli.evidence import KEPT_BYTES, chosen, cleaned, newest, tail
from cluster.cli.main import build
from cluster.core.redact import Known
from tests.unit.cli.canned import CannedServer

KEY = "tdm_" + "Ab3" * 14
JOIN = "tdj1_" + "Cd4" * 25 + "x"
HOMES = "/home"  # apart from a name: no file of the repository has a person's folder in it
SECRETS = (KEY, JOIN, "hunter2hunter2", "Who killed Roger", "marge", f"{HOMES}/ann")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trust = tmp_path / ".config" / "tandem" / "trust"
    trust.mkdir(parents=True)
    (trust / "node.json").write_text(f'{{"key": "{KEY}"}}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TANDEM_JOIN_TOKEN", JOIN)
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    monkeypatch.setenv("TANDEM_BLAS", "none")
    monkeypatch.setattr(evidence, "ask_server", lambda *_: Seen())
    monkeypatch.setattr("getpass.getuser", lambda: "marge")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served(server: CannedServer) -> CannedServer:
    server.answers["/cluster"] = (200, {
        "nodes": [{"hostname": "marges-studio", "node_id": "marges-studio-1a2b3c4d"}],
        "model": {"id": f"{HOMES}/ann/models/x"}, "secret": "hunter2hunter2", "decode": 41.5,
    })  # fmt: skip
    server.answers["/health"] = (503, {"status": "unhealthy", "reason": "no engines"})
    server.answers["/metrics"] = (200, b"tandem_prompt_tokens_total 512\n")
    return server


def run(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(build("report"), ["report", *arguments], **more)


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        entries = tar.getmembers()
        assert all(
            (e.uname, e.gname, e.uid, e.mtime, e.mode) == ("", "", 0, 0, 0o600) for e in entries
        )
        texts = [tar.extractfile(entry).read().decode() for entry in entries]
        names = [entry.name.removeprefix("tandem-report/") for entry in entries]
        return dict(zip(names, texts, strict=True))


def test_a_report_has_everything_and_no_secret(home: Path, served: CannedServer) -> None:
    log = home / "serve.log"
    log.write_text(f"engine of rank 0 failed\n--token {JOIN}\n{HOMES}/ann/x of marge, {KEY}\n")
    result = run("--url", served.url, "--key", KEY, "--log", str(log), "-o", "r.tar.gz", "--yes")
    assert result.exit_code == 0, result.output
    found = contents(home / "r.tar.gz")
    assert {
        "version.json", "doctor.json", "environment.txt", "configuration.txt",
        "server/cluster.json", "server/health.json", "server/metrics.txt", "logs/1-serve.log",
    } <= set(found)  # fmt: skip
    for name, text in found.items():
        assert not [secret for secret in SECRETS if secret in text], name
        assert f"{name} " in result.stdout
        assert str(home) not in text, name
    assert "engine of rank 0 failed" in found["logs/1-serve.log"]
    assert '"decode": 41.5' in found["server/cluster.json"]
    assert '"model": {\n    "id": "~/models/x"' in found["server/cluster.json"]
    assert "no engines" in found["server/health.json"]
    assert found["server/metrics.txt"] == "tandem_prompt_tokens_total 512\n"
    assert "TANDEM_JOIN_TOKEN=[key removed]" in found["environment.txt"]
    assert "TANDEM_BLAS=none" in found["environment.txt"]
    assert re.search(r"0\d{3} +\d+ ~/.config/tandem/trust/node.json", found["configuration.txt"])
    assert re.search(r"Matrix|BLAS|reference", found["doctor.json"])
    assert (home / "r.tar.gz").stat().st_mode & 0o777 == 0o600


def test_without_a_server_it_says_so(home: Path) -> None:
    result = run("--url", "http://127.0.0.1:1", "--show")
    assert result.exit_code == 0, result.output
    assert "no server answers" in result.stdout
    assert not list(home.glob("*.tar.gz"))


def test_nothing_is_written_unasked(home: Path, served: CannedServer) -> None:
    result = run("--url", served.url)
    assert result.exit_code == 1
    assert "give --yes" in result.stderr
    assert "server/cluster.json" in result.stdout
    assert not list(home.glob("*.tar.gz"))


def test_no_file_is_replaced(home: Path, served: CannedServer) -> None:
    (home / "r.tar.gz").write_text("mine")
    result = run("--url", served.url, "-o", "r.tar.gz", "--yes")
    assert result.exit_code == 1
    assert (home / "r.tar.gz").read_text() == "mine"


def test_a_log_that_is_not_there_is_said(home: Path, served: CannedServer) -> None:
    result = run("--url", served.url, "--log", "none.log", "--yes")
    assert result.exit_code == 1
    assert "can't read the log none.log" in result.stderr


def test_the_end_of_a_log_is_kept_from_a_line_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    kept = newest(log)
    assert len(kept) <= KEPT_BYTES
    assert kept.startswith("line ") and kept.endswith("line 99999\n")
    assert kept.splitlines()[0] in log.read_text().splitlines()
    assert tail("all of it\n", whole=True) == "all of it\n"


def test_a_log_with_prompts_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    body = "2026-11-22T05:22:20Z [info     ] body     text='Who killed Roger"
    log.write_text(f"{body}\n" + "x\n" * KEPT_BYTES)  # of which the kept part is after it
    assert "Who killed" not in newest(log)
    assert newest(log).startswith("left out")


def test_lines_of_json_are_read_as_such() -> None:
    line = '{"event": "refused", "messages": ["Who killed Roger"], "level": "error"}'
    assert cleaned(f"first\n{line}\n", Known()) == (
        'first\n{"event": "refused", "messages": "[text removed]", "level": "error"}\n'
    )


def test_of_the_environment_only_what_matters_is_told() -> None:
    environ = {"TANDEM_TRUST": "/x", "HF_HOME": "/y", "HF_TOKEN": "z", "EDITOR": "vi", "HOME": "/h"}
    assert chosen(environ) == {"TANDEM_TRUST": "/x", "HF_HOME": "/y", "HF_TOKEN": "[key removed]"}


def test_asking_at_a_terminal(
    home: Path, served: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("cluster.cli.report.sys", type("sys", (), {"stdin": Terminal()}))
    assert run("--url", served.url, input="n\n").exit_code == 1
    assert not list(home.glob("*.tar.gz"))
    assert run("--url", served.url, input="y\n").exit_code == 0
    assert len(list(home.glob("*.tar.gz"))) == 1
    assert os.listdir(home)
