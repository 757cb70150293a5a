"""The blocks of commands of a page, and why some are not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

LANGUAGES = ("sh", "python")
_BLOCK = re.compile(
    r"(?ms)^(?:<!-- not run: (?P<why>[^\n]+?) -->\n+)?```(?P<language>\w+)\n(?P<code>.*?)^```$"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page."""

    line: int
    """Of its first line of code, from 1."""
    language: str
    code: str
    why: str
    """Why it is not run; empty where it is."""


def blocks(page: str) -> list[Block]:
    """Those of a page in LANGUAGES. A comment right above one says why it is not run."""
    every = []
    for found in _BLOCK.finditer(page):
        line = page.count("\n", 0, found.start("code")) + 1
        every.append(Block(line, found["language"], found["code"], found["why"] or ""))
    return [block for block in every if block.language in LANGUAGES]


def script(page: list[Block], python: str) -> str:
    """One program of bash: the blocks that are run, in order, so that a later one has the
    variables of an earlier. It stops at the first command that fails; curl fails with the server.
    """
    parts = ["set -euo pipefail", 'curl() { command curl --fail-with-body -sS -m 60 "$@"; }']
    for block in page:
        if block.why:
            continue
        parts.append(f"echo '#### line {block.line}' >&2")
        if block.language == "sh":
            parts.append(block.code)
        else:
            parts.append(f"{shlex.quote(python)} - <<'END-OF-BLOCK'\n{block.code}END-OF-BLOCK")
    return "\n".join(parts) + "\n"
