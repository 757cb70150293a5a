"""The manual page: current, complete, and good roff by two judges."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGE = ROOT / "docs" / "tandem.1"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_what_the_command_line_gives() -> None:
    done = run(sys.executable, ROOT / "scripts" / "man_page.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_it_has_every_verb_and_each_of_its_options() -> None:
    text = PAGE.read_text().replace("\\-", "-")
    for verb in VERBS:
        section = re.search(rf"(?ms)^\.SS tandem {verb} .*?(?=^\.S[SH])", text)
        assert section, verb
        assert "Examples" in section[0] or "Example" in section[0]
    assert "--local-ranks N" in text and "Default: 8642." in text
    assert "TANDEM_JOIN_TOKEN" in text and "--show-completion" not in text
    assert not re.search(r"\*\*|`|<int|None", text)


def test_groff_has_nothing_to_say() -> None:
    done = run("groff", "-man", "-ww", "-Tutf8", "-z", PAGE)
    assert (done.returncode, done.stderr) == (0, "")


def test_mandoc_misses_the_date_alone() -> None:
    done = run("mandoc", "-T", "lint", PAGE)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_a_mistake_is_found(tmp_path: Path) -> None:
    bad = tmp_path / "tandem.1"
    bad.write_text(PAGE.read_text().replace(".SS", ".SQ"))
    assert "SQ" in run("groff", "-man", "-ww", "-Tutf8", "-z", bad).stderr
