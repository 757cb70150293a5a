"""Wheel and source distribution, built once, and an environment that has the wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = (
    "api", "cluster", "docs", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md",
    "pyproject.toml", "requirements.lock",
)  # fmt: skip
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
SECONDS = 120.0


@dataclass(frozen=True)
class Dists:
    """What was built, and from what."""

    source: Path
    sdist: Path
    wheel: Path
    again: Path
    """The wheel that the unpacked source distribution gives."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and nothing of this checkout."""

    prefix: Path
    home: Path
    """An empty folder."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, in the empty folder, with next to no variables."""
        return subprocess.run(
            self.command(*command), cwd=self.home, env=self.environ, capture_output=True,
            text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.prefix / "bin" / program), *arguments]

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": f"{self.prefix / 'bin'}:/usr/bin:/bin"}


def build(kind: str, source: Path, target: Path) -> Path:
    """`kind`: "wheel" or "sdist". With the setuptools that is there: nothing is fetched."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)], cwd=source,
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="session")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Dists:
    folder = tmp_path_factory.mktemp("dists")
    source = folder / "source"
    source.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=skip)
        else:
            shutil.copy(path, source)
    sdist = build("sdist", source, folder)
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    (folder / "again").mkdir()
    return Dists(
        source, sdist, build("wheel", source, folder), build("wheel", unpacked, folder / "again")
    )


@pytest.fixture(scope="session")
def installed(dists: Dists, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The packages that Tandem needs are those of .venv, after its own: its editable install is
    not seen. `docs/install.md` says how to try it with none of them."""
    folder = tmp_path_factory.mktemp("installed")
    prefix, home = folder / "environment", folder / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    if importlib.util.find_spec("pip"):
        installer = [sys.executable, "-m", "pip", "--python", str(prefix / "bin/python"), "install"]
    elif uv := shutil.which("uv"):
        installer = [uv, "pip", "install", "--python", str(prefix / "bin/python")]
    else:
        pytest.skip("neither pip nor uv is there")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(
        [*installer, "--quiet", "--no-deps", "--no-index", dists.wheel],
        env=environ, check=True, timeout=SECONDS,
    )  # fmt: skip
    (site,) = prefix.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(prefix, home)
