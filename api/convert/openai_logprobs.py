"""Logprobs as OpenAI's chat completions have them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cluster.core.request import TokenLogprob

UNLIKELY = -9999.0
"""OpenAI's stand-in for the logarithm of 0, which JSON has no number for."""


def logprobs_object(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs` for some tokens of the answer."""
    content = [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else UNLIKELY
    return {"token": token.token, "logprob": logprob, "bytes": list(token.data)}
