"""The documentation as a site: built strictly, and complete without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:)?//"
    r"|<link\b(?![^>]*rel=\"?(?:canonical|next|prev|edit))[^>]*\bhref=\"?(https?:)?//"
    r"|(?:@import|url\()\s*[\"']?(https?:)?//"
)
"""What a browser would load from another server by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", folder]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = [p.relative_to(ROOT) for p in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    assert not [page for page in pages if not (site / page.with_suffix(".html")).is_file()]
    assert "Who are you?" in (site / "index.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    texts = {path: path.read_text() for kind in ("*.html", "*.css") for path in site.rglob(kind)}
    found = {str(path): FETCHED.findall(text) for path, text in texts.items()}
    assert {path: what for path, what in found.items() if what} == {}
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example.org/css">')
    assert FETCHED.search("<script src=//cdn.example.org/a.js>")
