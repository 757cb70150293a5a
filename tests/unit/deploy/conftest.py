"""Linters of the files in `deploy`, and Tandem's own command line as the judge of arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from cluster.cli.main import build

DEPLOY = Path(__file__).resolve().parent.parent.parent.parent / "deploy"
BIN = Path(sys.executable).parent


def options(arguments: Sequence[str]) -> dict[str, Any]:
    """What `tandem ARGUMENTS` would be called with; a usage error fails the test."""
    verb, *rest = arguments
    group = typer.main.get_command(build(verb))
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command = group.commands[verb]
    with command.make_context(verb, rest) as context:
        return dict(context.params)


@pytest.fixture
def lint() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a linter, from .venv or the system; skips the test where there is none."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        path = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if path is None:
            pytest.skip(f"{name} is not installed: scripts/test installs it where it can")
        command = [path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
