"""Hook of mkdocs.yml: pages at the root and in deploy/ join those in docs/, each at its own path,
so that links work alike in a checkout and on the site."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site-source"
FOLDERS = ("docs", "deploy")


def on_config(config: Any, **_: Any) -> Any:
    """Copy what the site is made of, and have MkDocs read the copy."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for page in (*ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(page, SOURCE)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, SOURCE / folder)
    config["docs_dir"] = str(SOURCE)
    return config
