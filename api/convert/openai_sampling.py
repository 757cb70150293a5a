"""How an answer is sampled, as OpenAI's clients say it."""

from __future__ import annotations

from api.schema.openai_common import Sampled
from cluster.core.sampling import Sampling

LEAST_TOP_P = 1e-6
"""Stands for top_p 0, which clients send for "only the likeliest"."""


def sampling_of(asked: Sampled) -> Sampling:
    """With OpenAI's defaults; the seed and the logit bias are not in it (`Ask`)."""
    return Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=max(0, asked.top_k or 0),
        top_p=1.0 if asked.top_p is None else max(asked.top_p, LEAST_TOP_P),
        min_p=asked.min_p or 0.0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
    )
