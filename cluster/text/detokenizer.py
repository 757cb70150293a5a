"""Token ids in, text out, one token at a time."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from cluster.text.notation import Notation

BROKEN = "\ufffd"
"""What a decoder puts in place of bytes that are no character, or not yet."""


class Decoder(Protocol):
    """The part of a Tokenizer that is needed here."""

    @property
    def special_ids(self) -> Set[int]: ...

    @property
    def notation(self) -> Notation:
        """Needed only where markers are shown."""
        ...

    def decode(self, ids: list[int], /) -> str: ...


class Detokenizer:
    """Turns one answer's ids into text as they come.

    The text of a token depends on its neighbours: a character may be spread over several
    tokens, and some decoders strip or add a space at the beginning. So a small window is
    decoded twice, without and with its newest tokens, and what the second text has more is
    new (the technique of Hugging Face's text-generation-inference: `_shown` is its read offset,
    and the window begins at its prefix offset). Text that ends in U+FFFD may be half a
    character and waits for the next token.
    """

    PENDING = 8
    """Most tokens to hold back. A character has at most 4 bytes, and a token at least one, so
    after 8 tokens without a complete character the bytes really are broken."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._decode = tokenizer.decode
        self._special = tokenizer.special_ids
        self._window: list[int] = []
        self._shown = 0
        """How many tokens of the window have been turned into text."""
        self._shown_text = ""
        """The text of those alone."""

    def push(self, token: int) -> str:
        """Text that is certain now; empty while a character is incomplete."""
        if token in self._special:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        if len(text) > len(self._shown_text) and not text.endswith(BROKEN):
            return self._show(text, len(self._window))
        if len(self._window) - self._shown >= self.PENDING:
            return self._give_up(text)
        return ""

    def finish(self) -> str:
        """Text that was still held back; U+FFFD in it stands for bytes that never came. More may
        be pushed after."""
        text = self._show(self._decode(self._window), len(self._window))
        if text.endswith(BROKEN):  # later bytes don't belong to these
            self._window, self._shown, self._shown_text = [], 0, ""
        return text

    def _show(self, text: str, count: int) -> str:
        """Hand out `text`, that of the first `count` tokens, and keep the newest as context."""
        new = text[len(self._shown_text) :]
        self._window = self._window[self._shown :]
        self._shown = count - self._shown
        self._shown_text = self._decode(self._window[: self._shown])
        return new

    def _give_up(self, text: str) -> str:
        """Hand out broken bytes, but not the beginning of a character that may yet come."""
        for cut in range(len(self._window) - 1, self._shown, -1):
            head, tail = self._decode(self._window[:cut]), self._decode(self._window[cut:])
            if head + tail == text:
                return self._show(head, cut)
        return self._show(text, len(self._window))
