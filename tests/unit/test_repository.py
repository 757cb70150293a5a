"""What the repository promises about itself."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ["scripts/serve", "scripts/test", "scripts/setup", "scripts/lock", ".ci/run"]
LOCKS = ["requirements.lock", "requirements-dev.lock"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: str) -> set[str]:
    """Lines that pin a package, as `name==version`, perhaps with a marker."""
    return set(re.findall(r"^(\S.*?) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def test_the_installed_version_is_the_one_written_down(project: dict[str, Any]) -> None:
    assert version("tandem") == project["project"]["version"]


def test_the_version_is_written_down_once(project: dict[str, Any]) -> None:
    number = re.escape(project["project"]["version"])
    folders = ["api", "cluster", "deploy", "docs", "proto", "scripts"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    written = re.compile(rf"(?<![\d.]){number}(?![\d.])".encode())
    ours = [path for path in files if path.suffix in {".py", ".rb", ".yaml", ".proto", ".1"}]
    assert len(ours) > 100
    assert not [path for path in ours if written.search(path.read_bytes())]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_exact_pins_with_hashes_and_no_address(lock: str) -> None:
    for line in (ROOT / lock).read_text().splitlines():
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)? \\$|    --hash=sha256:\w{64}|\s*#", line), line
        assert "://" not in line
        assert not line.startswith("-")


def test_the_locks_agree_with_each_other_and_with_the_project(project: dict[str, Any]) -> None:
    names = {pin.split("==")[0] for pin in pins("requirements.lock")}
    wanted = project["project"]["dependencies"]
    exact = {lock: {pin.split(" ;")[0] for pin in pins(lock)} for lock in LOCKS}
    assert exact["requirements.lock"] <= exact["requirements-dev.lock"]
    assert {re.split(r"[\[=><]", line)[0] for line in wanted} <= names
    mlx = {line.split(" ;")[0].split("==")[1] for line in wanted if line.startswith("mlx")}
    locked = {pin.split(" ;")[0] for pin in pins("requirements.lock") if pin.startswith("mlx")}
    assert {pin.split("==")[1] for pin in locked} == mlx


@pytest.mark.parametrize("lock", ["web/package-lock.json", "tests/e2e/web/package-lock.json"])
def test_a_lock_of_npm_holds_hashes_and_no_address(lock: str) -> None:
    packages = json.loads((ROOT / lock).read_text())["packages"]
    wanted = json.loads((ROOT / lock).with_name("package.json").read_text())
    assert packages.pop("")["dependencies"] == wanted["dependencies"]
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def test_the_dashboard_was_built_from_what_is_there() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "build_web.py"))
    kept = (ROOT / "api" / "static" / script["DIGEST"]).read_text().strip()
    assert kept == script["sources_digest"](), "run scripts/build_web.py, and commit api/static"


def test_every_package_has_its_place_in_the_import_contracts(project: dict[str, Any]) -> None:
    packages = {f"cluster.{path.parent.name}" for path in ROOT.glob("cluster/*/__init__.py")}
    contracts = {
        contract["name"]: contract for contract in project["tool"]["importlinter"]["contracts"]
    }
    layers = set(re.findall(r"[\w.]+", " ".join(contracts["imports point one way"]["layers"])))
    assert packages <= layers
    assert packages - {"cluster.engine"} <= set(
        contracts["only engines touch MLX"]["source_modules"]
    )
    assert packages - {"cluster.wire"} <= set(
        contracts["only the wire touches gRPC"]["source_modules"]
    )


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    folders = ["api", "benchmarks", "cluster", "deploy", "docs", "proto", "scripts", "tests", "web"]
    folders.append(".ci")
    files = [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".lock"}]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    place = re.compile(rb"/root/|/home/\w|/Users/\w|file:///")
    for path in files:
        if (
            path.suffix in {".pyc", ".safetensors"}
            or path == Path(__file__)
            or "cache" in str(path)
            or "node_modules" in path.parts
        ):
            continue
        assert not place.search(path.read_bytes()), path


@pytest.mark.parametrize("verb", ["serve", "worker"])
def test_the_readme_names_only_options_that_exist(verb: str) -> None:
    text = (ROOT / "README.md").read_text()
    table = re.search(rf"^\| `tandem {verb}`.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table
    named = {option.replace("-", "_") for option in re.findall(r"`--([a-z-]+)`", table[0])}
    function = getattr(importlib.import_module(f"cluster.cli.{verb}"), verb)
    assert named
    assert named <= set(inspect.signature(function).parameters)
