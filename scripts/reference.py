"""Generate the pages of docs/reference: every verb and option, every bound, every endpoint.

`--check` changes nothing and fails when a committed page is not what the code gives.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from api.endpoints import OPERATIONS, Operation
from cluster.core import config
from command_line import verbs

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
MADE = "<!-- Made by scripts/reference.py; changes are lost. -->\n"


def command_line() -> Iterator[str]:
    """Of the command line."""
    yield from ("# Command line", "Every verb and option, as `tandem VERB --help` has them too.")
    for verb in verbs():
        yield from (f"## tandem {verb.name}", f"    {verb.usage}", verb.summary)
        yield from verb.paragraphs
        rows = []
        for option in verb.options:
            standing = f" Also `{option.variable}` in the environment." if option.variable else ""
            rows.append((f"`{option.form}`", option.about + standing, _code(option.default)))
        yield table(("option", "", "default"), rows)


def bounds() -> Iterator[str]:
    """Of the bounds in cluster/core/config.py."""
    yield from ("# Bounds", f"{inspect.getdoc(config)} From `cluster/core/config.py`.")
    yield "Some follow from options of `tandem serve`, or from the memory that there is."
    for kind in (config.Limits, config.Pacing):
        yield from (f"## {kind.__name__}", inspect.getdoc(kind) or "")
        about = attribute_docs(kind)
        fields = dataclasses.fields(kind)
        yield table(
            ("field", "", "default"),
            [(f"`{each.name}`", about.get(each.name, ""), f"`{each.default}`") for each in fields],
        )


def endpoints() -> Iterator[str]:
    """Of what HTTP clients can ask."""
    yield "# HTTP API"
    yield (
        "Every endpoint. A running server shows the fields of requests and answers at `/docs`, and "
        "has them for programs at `/openapi.json` (OpenAPI 3.1)."
    )
    for group in dict.fromkeys(each.group for each in OPERATIONS):
        yield f"## {group}"
        yield table(
            ("", "", "body", "answer", "errors"),
            [_row(each) for each in OPERATIONS if each.group == group],
        )


def _row(one: Operation) -> tuple[str, ...]:
    path = f"`{one.method} {one.path}`"
    if one.query:
        path += " " + ", ".join(f"`?{name}=`" for name in one.query)
    also = f"; also at `{one.path.removeprefix('/v1')}`" if one.bare else ""
    body = f"`{one.request.__name__}`" if one.request else ""
    kinds = [*(["JSON"] if one.answer is not None else []), *one.also]
    answer = f"{one.status}: {', '.join(kinds)}" if one.status and kinds else str(one.status or "")
    return path, one.summary + also, body, answer, ", ".join(map(str, sorted(one.errors)))


def attribute_docs(kind: type) -> dict[str, str]:
    """Field -> the string below it, in one line."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                found[name] = " ".join(text.split())
    return found


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    cells: list[tuple[Any, ...]] = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in cells
    )


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


PAGES = {"command-line.md": command_line, "bounds.md": bounds, "api.md": endpoints}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        text = MADE + "\n" + "\n\n".join(make()) + "\n"
        if not check:
            (FOLDER / name).write_text(text)
        elif not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text:
            sys.exit(f"not current: docs/reference/{name}; run: python scripts/reference.py")


if __name__ == "__main__":
    main()
