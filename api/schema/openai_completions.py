"""What clients send to /v1/completions, OpenAI's older path; see `openai_common`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.schema.openai_common import MAX_CHOICES, Formed, Sampled

MAX_LOGPROBS = 5


class CompletionsRequest(Sampled, Formed):
    """The whole request."""

    prompt: Any = None
    """Text or token ids, or a list of one of either; looked at by `api.convert`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    """Refused where it differs from `n`."""

    # Understood, and refused by name where they ask for something.
    echo: Any = None
    suffix: Any = None
