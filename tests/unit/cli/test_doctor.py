from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cluster.cli import doctor
from cluster.cli.main import build
from cluster.core.facts import Finding, Level
from cluster.core.versions import versions
from cluster.core.view import Health
from tests.unit.cli.canned import CannedServer
from tests.unit.cli.test_status import NODE, VIEW, as_json

ILL = dataclasses.replace(VIEW, nodes=(), health=Health(False, "rank 1 is silent"))
NOWHERE = "http://127.0.0.1:9"


def invoke(url: str, *options: str) -> Result:
    return CliRunner().invoke(build("doctor"), ["doctor", "--url", url, *options])


def findings(result: Result, topic: str) -> list[dict[str, Any]]:
    found = json.loads(result.stdout)["findings"]
    return [finding for finding in found if finding["topic"] == topic]


def test_this_machine_for_real_without_a_tool_and_in_time() -> None:
    """As a person runs it, on a PATH that has none of the tools that it would ask."""
    environ = {**os.environ, "PATH": "/nonexistent", "COLUMNS": "100"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "doctor", "--url", NOWHERE],
        capture_output=True, text=True, env=environ, check=False, timeout=60,
    )  # fmt: skip
    assert time.monotonic() - begun < 10
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    for topic in ("Machine", "Memory", "Disk", "Thunderbolt", "RDMA", "Firewall", "Clock"):
        assert f"\n{topic}" in f"\n{done.stdout}"
    assert "missing, or no answer from" in done.stdout
    assert "no server answers" in done.stdout
    assert "Next: " in done.stdout or "works as it is" in done.stdout


def test_json_has_facts_and_findings(tmp_path: Path) -> None:
    result = invoke(NOWHERE, "--json", "--kv-dir", str(tmp_path))
    answer = json.loads(result.stdout)
    assert answer["facts"]["versions"] == dataclasses.asdict(versions())
    assert [disk["use"] for disk in answer["facts"]["disks"]] == ["models", "prefixes"]
    assert {finding["level"] for finding in answer["findings"]} <= set(Level)
    levels = [finding["level"] for finding in answer["findings"]]
    assert result.exit_code == int("problem" in levels)


def test_nodes_of_a_running_server(server: CannedServer) -> None:
    same = dataclasses.replace(VIEW, nodes=(dataclasses.replace(NODE, versions=versions()),))
    server.answers["/cluster"] = (200, as_json(same))
    (found,) = findings(invoke(server.url, "--json"), "Cluster")
    assert found["level"] == "ok"
    assert "mini (10.0.0.1:8644)" in found["text"]
    server.answers["/cluster"] = (200, as_json(VIEW))
    result = invoke(server.url, "--json")
    (found,) = findings(result, "Cluster")
    assert f"protocol {versions().protocol} here, 1 there" in found["text"]
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        ((200, as_json(ILL)), "problem", "rank 1 is silent"),
        ((200, {"model": {}}), "problem", "the same version of tandem"),
        ((401, {"error": {"message": "a key is needed"}}), "note", "TANDEM_API_KEY"),
        ((200, b"<html>"), "note", "no Tandem server"),
    ],
)  # fmt: skip
def test_a_server_in_trouble(
    server: CannedServer, answer: tuple[int, Any], level: str, text: str
) -> None:
    server.answers["/cluster"] = answer
    (found,) = findings(invoke(server.url, "--json"), "Cluster")
    assert found["level"] == level
    assert text in found["text"]


def test_an_address_that_is_none_is_one_line() -> None:
    result = invoke("ftp://x")
    assert result.exit_code == 1
    assert "no address" in result.stderr


def test_a_problem_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Finding("Disk", Level.PROBLEM, "no room", "hf cache prune")
    monkeypatch.setattr(doctor, "of_machine", lambda facts: [problem])
    result = invoke(NOWHERE)
    assert result.exit_code == 1
    assert "$ hf cache prune" in result.stdout
    assert "1 problem, 0 warnings. Next:" in result.stdout
    monkeypatch.setattr(doctor, "of_machine", lambda facts: [])
    result = invoke(NOWHERE)
    assert result.exit_code == 0
    assert "Nothing to mend" in result.stdout


def test_findings_of_one_topic_stand_together_with_what_mends_them() -> None:
    found = [
        Finding("Disk", Level.OK, "room for models"),
        Finding("Clock", Level.WARNING, "late", "set it"),
        Finding("Disk", Level.WARNING, "little room"),
    ]
    console = Console(width=60)
    with console.capture() as capture:
        console.print(doctor.drawn(found))
    lines = [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]
    assert lines[:6] == [
        "Disk", "ok room for models", "warning little room", "Clock", "warning late", "$ set it",
    ]  # fmt: skip
    assert lines[6].startswith("0 problems, 2 warnings.")


def test_the_clock_beside_the_servers() -> None:
    now = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)
    for seconds, text in ((60, "60 s behind"), (-60, "60 s ahead of")):
        date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        (found,) = doctor.clock_beside(date, now)
        assert text in found.text
    assert doctor.clock_beside(format_datetime(now, usegmt=True), now) == []
    assert doctor.clock_beside("", now) == doctor.clock_beside("yesterday", now) == []
