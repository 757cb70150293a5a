"""Likelihoods of ids as those of their texts."""

from __future__ import annotations

from typing import Protocol

from cluster.core.plan import Likelihood
from cluster.core.request import TokenLogprob


class Speller(Protocol):
    """The part of a Tokenizer that is needed here."""

    def token_bytes(self, token: int, /) -> bytes: ...


def token_logprob(tokenizer: Speller, token: int, likelihood: Likelihood) -> TokenLogprob:
    """How likely the sampled id `token` was, for people to read."""
    top = tuple(_one(tokenizer, other, logprob) for other, logprob in likelihood.top)
    return _one(tokenizer, token, likelihood.logprob, top)


def _one(
    tokenizer: Speller, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    data = tokenizer.token_bytes(token)
    return TokenLogprob(data.decode(errors="replace"), data, logprob, top)
