"""Finding markers in text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Markers:
    """Some texts to look for; the leftmost counts, of two that begin together the shorter."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({text for text in texts if text}, key=len)
        self._any = re.compile("|".join(map(re.escape, self._texts)))

    def find(self, text: str, *, final: bool = False) -> tuple[int, str]:
        """How much of `text` is before a marker, and that marker; the marker is empty when there
        is none, and what may be the beginning of one isn't counted then, unless nothing comes
        after `text` (`final`)."""
        if not self._texts:
            return len(text), ""
        found = self._any.search(text)
        place = found.start() if found else len(text)
        if not final:
            for begin in range(max(0, len(text) - len(self._texts[-1]) + 1), place):
                tail = text[begin:]
                if any(marker.startswith(tail) for marker in self._texts):
                    return begin, ""
        return place, found[0] if found else ""
