"""What the README and docs tell people to type is typed, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation.blocks import Block, blocks, script
from tests.e2e.cluster_process import Server, serving

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECONDS = 90.0


def run_of(page: Path) -> list[Block]:
    return [block for block in blocks(page.read_text()) if not block.why]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def run(code: str, folder: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    """A script in an empty folder that is its home too, with `tandem` in the path."""
    home = folder / "home"
    home.mkdir()
    environ = {
        "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "TANDEM_URL": url,
    }  # fmt: skip
    command = ["bash", "-c", code.replace("http://127.0.0.1:8642", url)]
    return subprocess.run(
        command, cwd=home, env=environ, capture_output=True, text=True, timeout=SECONDS,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.e2e
@pytest.mark.parametrize("page", [p for p in PAGES if run_of(p)], ids=lambda page: page.stem)
def test_what_a_page_says_can_be_typed(page: Path, tmp_path: Path, server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = run(script(blocks(page.read_text()), sys.executable), tmp_path, str(server.url))
    assert done.returncode == 0, f"{page.name}: {done.stderr}\n{done.stdout}"
    assert done.stderr.count("#### line") == len(run_of(page))


def test_what_is_not_run_has_a_reason() -> None:
    skipped = [b for page in PAGES for b in blocks(page.read_text()) if b.why]
    assert all(len(block.why.split()) >= 2 for block in skipped)
    assert sum(len(run_of(page)) for page in PAGES) >= 10
    for page in PAGES:  # a comment that is above no block would be read by nobody
        text = page.read_text()
        reasons = len(re.findall("<!-- not run:", text))
        assert reasons == sum(bool(block.why) for block in blocks(text)), page


def test_a_page_is_taken_apart() -> None:
    skipped = "<!-- not run: a Mac -->\n```sh\nfalse\n```\n"
    page = f"a\n\n```sh\nX=1\n```\n\n{skipped}```json\n{{}}\n```\n```python\nx\n```\n"
    assert blocks(page) == [
        Block(4, "sh", "X=1\n", ""),
        Block(9, "sh", "false\n", "a Mac"),
        Block(15, "python", "x\n", ""),
    ]


def test_a_block_that_fails_is_found_and_the_rest_is_not_run(tmp_path: Path) -> None:
    page = "```sh\nX=1\n```\n```sh\ntest $X = 2\n```\n```sh\necho never\n```\n"
    done = run(script(blocks(page), sys.executable), tmp_path)
    assert done.returncode == 1
    assert done.stderr.split("\n")[:2] == ["#### line 2", "#### line 5"]
    assert "never" not in done.stdout
    (tmp_path / "other").mkdir()
    done = run(
        script(blocks("```python\nimport nothing\n```\n"), sys.executable), tmp_path / "other"
    )
    assert done.returncode == 1
