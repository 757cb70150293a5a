"""Bytes of a pipe cut into lines, bounded."""

from __future__ import annotations

LONGEST_LINE = 64 * 1024
"""Bytes; the rest of a longer line is dropped."""


class Lines:
    """Cuts bytes as they come into lines of text without their ends."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._rest = b""

    def push(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = self._rest + whole[0]
            self._rest = rest[: self._longest]
        else:
            self._rest = (self._rest + rest)[: self._longest]
        return [self._text(line) for line in whole]

    def finish(self) -> list[str]:
        """What was left without an end."""
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    def _text(self, line: bytes) -> str:
        return line[: self._longest].decode(errors="replace").rstrip("\r")
