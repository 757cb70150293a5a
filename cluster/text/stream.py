"""One answer's way from ids to text."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.text.detokenizer import Decoder, Detokenizer
from cluster.text.stop import StopStrings


class TextStream:
    """Ids in, text out: never half a character, never a part of a stop string."""

    def __init__(
        self, tokenizer: Decoder, stop: tuple[str, ...] = (), *, markers: bool = False
    ) -> None:
        """With `markers`, special tokens that mark reasoning or tool calls are shown; no stop
        string matches in them or across."""
        self._detokenizer = Detokenizer(tokenizer)
        self._markers: Mapping[int, str] = tokenizer.notation.marker_ids if markers else {}
        self._stop = StopStrings(stop) if stop else None

    @property
    def stopped(self) -> bool:
        """True once a stop string was found; `push` must not be called after."""
        return self.found is not None

    @property
    def found(self) -> str | None:
        """The stop string that ended the text, if one has."""
        return None if self._stop is None else self._stop.found

    def push(self, token: int) -> str:
        """Text that is now certain; empty while it is held back."""
        if token in self._markers:
            text = self.finish()
            return text if self.stopped else text + self._markers[token]
        text = self._detokenizer.push(token)
        return text if self._stop is None else self._stop.feed(text)

    def finish(self) -> str:
        """What was still held back, at the end without a stop string. (One that is complete
        only now, with the last held-back characters, still counts.)"""
        text = self._detokenizer.finish()
        if self._stop is None:
            return text
        text = self._stop.feed(text)
        return text if self.stopped else text + self._stop.finish()
