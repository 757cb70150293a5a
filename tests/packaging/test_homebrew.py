"""The formula: Ruby, and true of what it is for."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.packaging.conftest import ROOT, Dists

SCRIPT = ROOT / "scripts" / "homebrew_formula.py"


def made(dists: Dists, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, dists.sdist, url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def formula(dists: Dists) -> str:
    done = made(dists, f"https://example.org/releases/{dists.sdist.name}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_is_ruby(formula: str) -> None:
    if (ruby := shutil.which("ruby")) is None:
        pytest.skip("ruby is not installed")
    for text, code in ((formula, 0), (formula.replace("  def install", "  def"), 1)):
        done = subprocess.run(
            [ruby, "-wc"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
    assert "warning" not in done.stderr


def test_it_is_of_the_distribution_that_was_given(formula: str, dists: Dists) -> None:
    assert f'url "https://example.org/releases/{dists.sdist.name}"' in formula
    assert f'sha256 "{hashlib.sha256(dists.sdist.read_bytes()).hexdigest()}"' in formula
    assert "@" not in formula.replace("python@", "")
    assert "template" not in formula
    assert made(dists, "https://example.org/tandem-0.0.0.tar.gz").returncode == 2


def test_what_it_names_is_there(formula: str, dists: Dists) -> None:
    with tarfile.open(dists.sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert set(re.findall(r'"-r", "([^"]+)"', formula)) == {"requirements.lock"} <= names
    assert "docs/tandem.1" in names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (python,) = set(re.findall(r"python@?(3\.\d+)", formula))
    assert python in SpecifierSet(project["requires-python"])
    assert f'license "{project["license"]}"' in formula
