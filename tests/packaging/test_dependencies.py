"""What is imported is what is declared: an environment with nothing else has it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.packaging.conftest import ROOT

OWN = {"api", "cluster"}
BROUGHT = {"transformers"}
"""By mlx-lm, whose exact pin says which version: its tokenizers are of that library's classes."""


def imported(path: Path) -> Iterator[str]:
    """First parts of the names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {spelled(re.split(r"[\[=<> ;]", line)[0]) for line in requirements}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    files = [path for package in OWN for path in (ROOT / package).rglob("*.py")]
    modules = {name for path in files for name in imported(path)}
    modules -= OWN | BROUGHT | set(sys.stdlib_module_names)
    owners = packages_distributions()
    needed = {frozenset(map(spelled, owners.get(module, [module]))) for module in modules}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = named(project["dependencies"])
    extra = named(project["optional-dependencies"]["otel"])  # says so where it is missing
    assert not [names for names in needed if not names & (declared | extra)]
    assert declared <= frozenset().union(*needed)
