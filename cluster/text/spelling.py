"""How a vocabulary writes the bytes that its tokens stand for."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


class Spelling(Enum):
    """One of the ways that are in use."""

    BYTE_LEVEL = "byte level"
    """Each byte is a character (GPT-2's table)."""
    SENTENCEPIECE = "sentencepiece"
    """Text, with U+2581 for a space, and <0xNN> for a lone byte."""
    OTHER = "other"

    @classmethod
    def of(cls, backend: Any) -> Spelling:
        """What a `tokenizers.Tokenizer` has; OTHER for None."""
        decoder = None if backend is None else backend.decoder
        if decoder is None:
            return cls.OTHER
        state = json.loads(decoder.__getstate__())
        parts = [state, *state.get("decoders", ())]
        if any(part["type"] == "ByteLevel" for part in parts):
            return cls.BYTE_LEVEL
        if any(part["type"] in ("ByteFallback", "Metaspace") for part in parts):
            return cls.SENTENCEPIECE
        return cls.OTHER

    def bytes_of(self, token: str) -> bytes | None:
        """What a token stands for; None when only a decoder can say."""
        match self:
            case Spelling.BYTE_LEVEL:
                # An added token is plain text, and may have characters that stand for no byte.
                values = [_BYTE_OF.get(character) for character in token]
                known = [value for value in values if value is not None]
                return bytes(known) if len(known) == len(values) else token.encode()
            case Spelling.SENTENCEPIECE:
                byte = _BYTE.fullmatch(token)
                if byte is not None:
                    return bytes.fromhex(byte[1])
                return token.replace(_SPACE, " ").encode()
            case Spelling.OTHER:
                return None


def _byte_of() -> dict[str, int]:
    """Printable characters of Latin-1 stand for themselves, other bytes for U+0100 onwards
    (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_of()
