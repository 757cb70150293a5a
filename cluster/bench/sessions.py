"""Who asks what: sessions of one turn or several, drawn from a seed. Pure.

A session depends on seed, level and number alone, so every server is asked the same in the same
order, however fast it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cluster.bench.lengths import Pairs


@dataclass(frozen=True, slots=True)
class Workload:
    """What sessions are like."""

    pairs: Pairs
    seed: int = 0
    prefix: int = 0
    """Tokens of a system prompt that all requests of a run share."""
    turns: int = 1
    """Of each session: a turn has all turns before it, and their answers, in its prompt."""
    think: float = 0.0
    """Seconds between an answer and the next turn."""
    cancel: float = 0.0
    """Share of requests whose client hangs up before the end."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session."""

    prompt: int
    """Tokens that it adds to the conversation."""
    output: int
    """Tokens of its answer."""
    hang_up: int | None = None
    """After so many pieces of the answer the client leaves; at 0 it leaves at the headers."""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns that follow each other."""

    number: int
    turns: tuple[Turn, ...]


def session(work: Workload, level: int, number: int) -> Session:
    """The `number`-th session of a level."""
    chance = Random(f"session {work.seed} {level} {number}")
    turns = []
    for _ in range(work.turns):
        prompt, output = work.pairs.draw(chance)
        leaves = chance.random() < work.cancel
        after = chance.randrange(output)
        turns.append(Turn(prompt, output, after if leaves else None))
    return Session(number, tuple(turns))
