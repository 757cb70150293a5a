"""Finding stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class _Pattern:
    """One stop string, matched character by character (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Length of the longest prefix of `text` that the input now ends with."""
        self._border = [0] * len(text)
        """For each prefix of `text`: its longest proper prefix that is also its suffix."""
        length = 0
        for end in range(1, len(text)):
            while length and text[end] != text[length]:
                length = self._border[length - 1]
            length += text[end] == text[length]
            self._border[end] = length

    def step(self, character: str) -> bool:
        """True when the stop string is complete with this character."""
        while self.matched and character != self.text[self.matched]:
            self.matched = self._border[self.matched - 1]
        self.matched += character == self.text[self.matched]
        return self.matched == len(self.text)


class StopStrings:
    """Lets text through up to the first stop string, whatever pieces it comes in.

    The first one is the one that is complete first; of several that end together, the longest.
    Only text that may be the beginning of a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string can't be empty")
        self._patterns = [_Pattern(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """Text that is certain to be part of the answer. Not to be called once one is found."""
        if self.found is not None:
            raise ValueError(f"text after the stop string {self.found!r}")
        for position, character in enumerate(text):
            complete = [pattern.text for pattern in self._patterns if pattern.step(character)]
            if complete:
                self.found = max(complete, key=len)
                whole = self._held + text[: position + 1]
                self._held = ""
                return whole[: -len(self.found)]
        whole = self._held + text
        certain = len(whole) - max((pattern.matched for pattern in self._patterns), default=0)
        self._held = whole[certain:]
        return whole[:certain]

    def finish(self) -> str:
        """What was held back, now that nothing more comes, or nothing that belongs to it."""
        for pattern in self._patterns:
            pattern.matched = 0
        held, self._held = self._held, ""
        return held
