"""What wheel and source distribution hold."""

from __future__ import annotations

import hashlib
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.packaging.conftest import ROOT, Dists

PACKAGES = ("api", "cluster")


def contents(wheel: Path) -> dict[str, str]:
    """Name -> digest of every file, without the list of them."""
    with zipfile.ZipFile(wheel) as opened:
        return {
            name: hashlib.sha256(opened.read(name)).hexdigest()
            for name in opened.namelist() if not name.endswith("/RECORD")
        }  # fmt: skip


def of_packages() -> dict[str, str]:
    """Name -> digest of every file below the packages of this checkout."""
    return {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for package in PACKAGES for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def test_a_wheel_has_every_file_of_the_packages(dists: Dists) -> None:
    found = contents(dists.wheel)
    expected = of_packages()
    assert {name: digest for name, digest in found.items() if name.split("/")[0] in PACKAGES} == (
        expected
    )
    for name in ("cluster/demo/model.safetensors", "cluster/demo/chat_template.jinja",
                 "cluster/py.typed", "api/py.typed", "cluster/wire/v1/engine_pb2.pyi"):  # fmt: skip
        assert name in expected


def test_beside_the_packages_it_has_the_manual_the_license_and_metadata(dists: Dists) -> None:
    rest = {name.split("/", 1)[1] for name in contents(dists.wheel) if "/" in name
            and name.split("/")[0] not in PACKAGES}  # fmt: skip
    assert rest == {
        "data/share/man/man1/tandem.1", "licenses/LICENSE", "METADATA", "WHEEL",
        "entry_points.txt", "top_level.txt",
    }  # fmt: skip


def test_a_source_distribution_gives_the_same_wheel(dists: Dists) -> None:
    assert dists.again.name == dists.wheel.name
    assert contents(dists.again) == contents(dists.wheel)


def test_a_source_distribution_has_the_lock(dists: Dists) -> None:
    with tarfile.open(dists.sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"requirements.lock", "docs/tandem.1", "CHANGELOG.md", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "benchmarks"))]


def test_metadata_says_what_the_project_says(dists: Dists) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(dists.wheel) as opened:
        (name,) = (each for each in opened.namelist() if each.endswith("/METADATA"))
        metadata = Parser().parsestr(opened.read(name).decode())
    assert metadata["Version"] == str(Version(project["version"]))
    assert dists.wheel.name == f"tandem-{project['version']}-py3-none-any.whl"
    said = {
        str(Requirement(each)) for each in metadata.get_all("Requires-Dist", ())
        if "extra ==" not in each
    }  # fmt: skip
    assert said == {str(Requirement(each)) for each in project["dependencies"]}
