"""What the simulated engines compute, and the one right answer to each request.

The token after n positions is a function of the request's seed, n, and every id before it
(tests/unit/scheduler/reference.py): whatever is lost, doubled or mixed up on the way shows in the
text.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.core.request import Finish, Request
from cluster.text.notation import Notation
from tests.unit.scheduler.reference import VOCABULARY, alone

END = 0
"""Ends an answer."""
POISON = VOCABULARY
"""An id that only prompts have: whoever computes it crashes."""


class Letters:
    """A tokenizer with a character for each id."""

    end_ids = frozenset({END})
    special_ids = frozenset({END})
    notation = Notation("<think>", "</think>", "<tool_call>", "</tool_call>")
    vocab_size = VOCABULARY

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([chr(0x40 + token) for token in ids if token != END])

    def token_bytes(self, token: int) -> bytes:
        return self.decode([token]).encode()


def answer(request: Request, stop: Sequence[str]) -> tuple[str, Finish]:
    """The text of a request that is not cut short, and why it ends."""
    ids = alone(request)
    text = Letters().decode(ids)
    places = [place for place in map(text.find, stop) if place >= 0]
    if places:
        return text[: min(places)], Finish.STOP
    return text, Finish.STOP if ids[-1] in request.end_ids else Finish.LENGTH
