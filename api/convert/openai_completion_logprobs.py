"""Logprobs as OpenAI's older completions have them: four lists beside each other. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from api.convert.openai_logprobs import UNLIKELY
from cluster.core.request import TokenLogprob


class LegacyLogprobs:
    """Those of one answer, told at once or some at a time."""

    def __init__(self, top: int) -> None:
        """`top`: how many of the likeliest tokens are told with each."""
        self._top = top
        self._offset = 0

    def tell(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The next tokens; `text_offset` counts characters from where the answer began."""
        names: list[str] = []
        chances: list[float] = []
        tops: list[dict[str, float]] = []
        offsets: list[int] = []
        for token in tokens:
            names.append(_name(token))
            chances.append(_finite(token))
            # The sampled token is always one of them, as with OpenAI.
            tops.append({_name(each): _finite(each) for each in (*token.top, token)})
            offsets.append(self._offset)
            self._offset += len(token.token)
        return {
            "tokens": names,
            "token_logprobs": chances,
            "top_logprobs": tops if self._top else None,
            "text_offset": offsets,
        }


def _name(token: TokenLogprob) -> str:
    """Its text; a part of a character by its bytes, as OpenAI writes it."""
    if "\ufffd" not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _finite(token: TokenLogprob) -> float:
    return token.logprob if math.isfinite(token.logprob) else UNLIKELY
