"""launchd and systemd: files that their own tools accept, arguments that Tandem accepts."""

from __future__ import annotations

import plistlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.conftest import BIN, DEPLOY, options

PLISTS = sorted((DEPLOY / "launchd").glob("*.plist"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/tandem/.venv/bin/tandem"
EXPOSURE = 2.0
"""Of 10, at most. systemd 252 says 1.4; others count a little differently."""


def plist(path: Path) -> dict[str, Any]:
    return plistlib.loads(path.read_bytes())


def settings(path: Path) -> dict[str, list[str]]:
    """Name -> values of a unit."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def unit_options(path: Path) -> dict[str, Any]:
    """What the unit would call Tandem with, its environment file included."""
    (start,) = settings(path)["ExecStart"]
    (file,) = settings(path)["EnvironmentFile"]
    text = (path.parent / Path(file).name).read_text()
    found = re.search(r"^TANDEM_OPTIONS=(.*)$", text, re.MULTILINE)
    assert found
    program, *arguments = shlex.split(start.replace("$TANDEM_OPTIONS", found[1]))
    assert program == PROGRAM
    return options(arguments)


def test_there_are_both_of_each() -> None:
    assert [path.stem for path in PLISTS] == ["local.tandem.serve", "local.tandem.worker"]
    assert [path.stem for path in UNITS] == ["tandem-serve", "tandem-worker"]


@pytest.mark.parametrize("path", PLISTS, ids=lambda path: path.stem)
def test_a_plist_is_labelled_as_its_file_and_starts_tandem(path: Path) -> None:
    job = plist(path)
    assert job["Label"] == path.stem
    program, *arguments = job["ProgramArguments"]
    assert program == PROGRAM
    worker = path.stem.endswith("worker")
    token = Path("/var/db/tandem/token") if worker else None
    assert options(arguments).get("token_file") == token
    home = job["EnvironmentVariables"]["HOME"]
    assert job["WorkingDirectory"] == home
    assert Path(job["StandardErrorPath"]).parent == Path(home)
    assert job["UserName"] == "_tandem"
    assert job["Umask"] == 0o077


def test_plists_join_each_other_and_differ_in_nothing_else() -> None:
    serve, worker = map(plist, PLISTS)
    served = options(serve["ProgramArguments"][1:])
    joined = options(worker["ProgramArguments"][1:])
    assert joined["join"] == f"{served['host']}:8643"
    for name in ("Label", "ProgramArguments", "StandardErrorPath"):
        del serve[name], worker[name]
    assert serve == worker


def test_units_join_each_other_and_differ_in_nothing_else() -> None:
    served, joined = map(unit_options, UNITS)
    assert joined["join"] == f"{served['host']}:8643"
    assert served["nodes"] == "1"
    serve, worker = map(settings, UNITS)
    for name in ("Description", "EnvironmentFile", "ExecStart"):
        del serve[name], worker[name]
    assert worker.pop("LoadCredential") == ["token:/etc/tandem/token"]
    assert serve == worker


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_as_systemd_sees_it(path: Path, tmp_path: Path, lint: Any) -> None:
    unit = tmp_path / path.name  # its program has to exist
    unit.write_text(path.read_text().replace(PROGRAM, str(BIN / "tandem")))
    done = lint("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = lint("systemd-analyze", "security", "--offline=true", unit)
    rating = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert rating
    assert float(rating[1]) <= EXPOSURE


def test_a_mistake_is_found(tmp_path: Path, lint: Any) -> None:
    unit = tmp_path / "tandem-serve.service"
    text = UNITS[0].read_text().replace(PROGRAM, str(BIN / "tandem"))
    unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=perhaps"))
    assert "perhaps" in lint("systemd-analyze", "verify", unit).stderr


@pytest.mark.parametrize("folder", sorted(path for path in DEPLOY.iterdir() if path.is_dir()))
def test_a_folder_has_a_readme_that_names_only_files_that_exist(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / target).exists(), target
    for path in re.findall(r"(?<![\w/])deploy/[\w./-]+\w", text):
        assert (DEPLOY.parent / path).exists(), path
    assert f"({folder.name}/README.md)" in (DEPLOY / "README.md").read_text()
    for line in re.findall(r"^.*\btandem key add .*$", text, re.MULTILINE):
        words = shlex.split(line.partition("tandem key add ")[2], comments=True)
        options(["key", "add", *words])
