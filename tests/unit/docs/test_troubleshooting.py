"""Every heading of docs/troubleshooting.md is a line that Tandem can print."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "…"


def shown() -> list[str]:
    return re.findall(r"^### `(.+)`$", PAGE.read_text(), flags=re.MULTILINE)


@cache
def printed() -> tuple[str, ...]:
    """Every text in the code, with "…" for what varies."""
    texts: list[str] = []
    for package in ("cluster", "api"):
        for path in (ROOT / package).rglob("*.py"):
            if "v1" not in path.parts:
                texts.extend(_texts(ast.parse(path.read_text())))
    return tuple(texts)


def _texts(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield _plain(text)
        case ast.JoinedStr(values=parts):
            yield _plain(
                "".join(str(p.value) if isinstance(p, ast.Constant) else VARIES for p in parts)
            )
            return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _plain(text: str) -> str:
    """Without backquotes, which a heading can't have, and with logging's %s as what varies."""
    return text.replace("`", "").replace("%s", VARIES)


def is_printed(line: str) -> bool:
    """Some text has all of the line's words, in its order."""
    pattern = re.compile(".*".join(re.escape(part) for part in line.split(VARIES)), re.DOTALL)
    return any(pattern.search(text) for text in printed())


@pytest.mark.parametrize("line", shown())
def test_can_be_seen(line: str) -> None:
    assert is_printed(line)


def test_would_find_what_is_not_printed() -> None:
    assert len(shown()) > 25
    assert not is_printed("no server answers at …: begin one with tandem serve")
    assert not is_printed("the join token has gone")
