"""Which of several groups of one model computes a request; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOAD_TOKENS = 64
"""A request that a group has weighs as much as so many tokens of prompt: a conversation stays
where its prefix is, and what a chat template puts before every prompt keeps no group busy."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One group, for one request."""

    held: int
    """Positions of the prompt that it need not compute."""
    requests: int
    """That it has."""
    full: bool = False
    """It takes no more requests."""


def route(prompt: int, seats: Sequence[Seat]) -> int:
    """The place of the best seat for a prompt of so many tokens: one that is not full, if there
    is one; then where least is left to compute, the requests before it counted in; among equals
    the one with fewer requests, then the first."""

    def cost(place: int) -> tuple[bool, int, int]:
        seat = seats[place]
        left = prompt - seat.held + LOAD_TOKENS * seat.requests
        return seat.full, left, seat.requests

    return min(range(len(seats)), key=cost)
