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
from typer.testing import CliRunner, Result

from cluster.cli import doctor
from cluster.cli.main import build
from cluster.core.facts import Facts, Finding, Level, Pair, Survey, Surveyed
from cluster.core.versions import versions
from cluster.core.view import Health
from cluster.node.survey import survey
from tests.unit.cli.canned import CannedServer
from tests.unit.cli.test_status import NODE, VIEW, as_json

EMPTY = dataclasses.replace(VIEW, nodes=())
ILL = dataclasses.replace(VIEW, nodes=(), health=Health(False, "rank 1 is silent"))
NOTHING = {"join": "", "machines": []}
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
    found, note = findings(invoke(server.url, "--json"), "Cluster")
    assert found["level"] == "ok"
    assert "mini (10.0.0.1:8644)" in found["text"]
    assert note["level"] == "note"
    assert note["text"].startswith("no findings of other machines: ")
    server.answers["/cluster"] = (200, as_json(VIEW))
    result = invoke(server.url, "--json")
    found, _ = findings(result, "Cluster")
    assert f"protocol {versions().protocol} here, 1 there" in found["text"]
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {"error": {"message": "not here"}}), "on the machine that serves"),
        ((404, {"error": {"message": "no such path"}}), "no such path"),
        ((503, {"error": {"message": "not ready: loading"}}), "not ready: loading"),
        ((200, {"machines": []}), "other terms than this command"),
        ((200, b"<html>"), "other terms than this command"),
    ],
)
def test_machines_that_can_not_be_asked_are_a_note(
    server: CannedServer, answer: tuple[int, Any], text: str
) -> None:
    server.answers |= {"/cluster": (200, as_json(EMPTY)), "/cluster/facts": answer}
    (found,) = findings(invoke(server.url, "--json"), "Cluster")
    assert found["level"] == "note"
    assert text in found["text"]


def surveyed(here: Facts) -> Survey:
    """This machine, one that has little memory left, and one that is silent."""
    low = dataclasses.replace(here, hostname="low", available_bytes=0, heard=("other-1",))
    good = dataclasses.replace(here, heard=("low-1",))
    machines = (
        Surveyed("other-1", here.hostname, "127.0.0.1:4711", good),
        Surveyed("low-1", "low", "192.0.2.7:8644", low, "", 0.004, 0.001),
        Surveyed("mute-1", "mute", "192.0.2.8:8644", None, "it did not answer in time"),
    )
    return Survey("192.0.2.6:8643", machines)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return survey(tmp_path_factory.mktemp("models"))


@pytest.fixture
def asked(server: CannedServer, here: Facts) -> CannedServer:
    """A server whose machines have told of themselves."""
    pairs = (
        Pair("other", "low", "ethernet", 200.0, 0.94, here_id="other-1", there_id="low-1"),
        Pair("low", "other", "ethernet", 210.0, 0.93, here_id="low-1", there_id="other-1"),
    )
    view = dataclasses.replace(EMPTY, links=pairs)
    answer = json.loads(json.dumps(dataclasses.asdict(surveyed(here))))
    server.answers |= {"/cluster": (200, as_json(view)), "/cluster/facts": (200, answer)}
    return server


def test_what_other_machines_have_found(asked: CannedServer) -> None:
    result = invoke(asked.url, "--json")
    assert result.exit_code == 1  # one is silent
    answer = json.loads(result.stdout)
    assert [each["node_id"] for each in answer["machines"]] == ["other-1", "low-1", "mute-1"]
    where = {finding["machine"] for finding in answer["findings"]}
    assert where == {"", "low (192.0.2.7:8644)"}  # this one is looked at by itself
    memory = [f for f in answer["findings"] if f["machine"] and f["topic"] == "Memory"]
    assert any("are free now" in finding["text"] for finding in memory)
    told = {finding["text"]: finding["level"] for finding in findings(result, "Cluster")}
    silent = "mute (192.0.2.8:8644) has told nothing of itself: it did not answer in time"
    assert told[silent] == "problem"
    assert told["2 clocks are within 5 ms of the server's"] == "ok"
    assert [finding["text"] for finding in findings(result, "Pairs")] == [
        "other to low over ethernet, 200 us there and back, 0.9 Gb/s, heard by mDNS",
        "low to other over ethernet, 210 us there and back, 0.9 Gb/s, heard by mDNS",
    ]


def test_a_person_reads_it_in_80_columns(asked: CannedServer) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(
        build("doctor"), ["doctor", "--url", asked.url]
    )
    lines = result.stdout.splitlines()
    for line in lines:
        assert len(line) <= 80 or line.lstrip().startswith("$ "), line  # those are to be copied
    (section,) = [place for place, line in enumerate(lines) if line.startswith("On low (192.0.2.7")]
    assert lines[section].endswith(" ok")
    assert any(line.split()[:2] == ["warning", "Memory:"] for line in lines[section:])


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
    server.answers |= {"/cluster": answer, "/cluster/facts": (200, NOTHING)}
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


def test_the_clock_beside_the_servers() -> None:
    now = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)
    for seconds, text in ((60, "60 s behind"), (-60, "60 s ahead of")):
        date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        (found,) = doctor.clock_beside(date, now)
        assert text in found.text
    assert doctor.clock_beside(format_datetime(now, usegmt=True), now) == []
    assert doctor.clock_beside("", now) == doctor.clock_beside("yesterday", now) == []
