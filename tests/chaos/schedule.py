"""Who asks what, and what goes wrong, when: drawn from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.client import WORDS, Question
from tests.chaos.fault import Fault, Kind, Phase, Place

LEAVING = 0.1
"""Share of clients that hang up."""
PREFIXES = (0, 40, 200, 600)
"""Words that questions of one kind begin with, alike."""


class Outside(StrEnum):
    """Faults that are not an engine's own."""

    AGENT = "agent killed"
    """SIGKILL to a node agent, which is started again at once."""
    LINE = "agent cut off"
    """The TCP connections between the coordinator and an agent break."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One client."""

    at: float
    """Seconds from the beginning."""
    question: Question
    leave_after: int | None
    """It hangs up when so many pieces of text have come; None stays."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One fault."""

    at: float
    """Seconds from the beginning; one of an engine happens at its next launch of that phase."""
    what: Fault | Outside
    rank: int
    seconds: float
    """How long a stopped engine stays so, or a slow one slow."""

    def __str__(self) -> str:
        return f"{self.what} ({self.rank})" if isinstance(self.what, Outside) else str(self.what)


def questions(seed: int) -> list[Question]:
    """Of all lengths; several begin alike."""
    draw = random.Random(seed)
    asked = []
    for words in PREFIXES:
        prefix = " ".join(draw.choices(WORDS, k=words))
        for number in range(6):
            end = f"Question {number}: " + " ".join(draw.choices(WORDS, k=draw.randrange(3, 20)))
            tokens = draw.randrange(16, 97)
            varied, told = number % 3 == 0, number % 2 == 0
            asked.append(Question(f"{prefix} {end}".strip(), tokens, varied=varied, told=told))
    return asked


def arrivals(seed: int, seconds: float, rate: float, asked: Sequence[Question]) -> list[Arrival]:
    """A Poisson process of `rate` clients a second, whatever becomes of those before."""
    draw = random.Random(seed)
    clients = []
    at = draw.expovariate(rate)
    while at < seconds:
        question = draw.choice(asked)
        leaves = draw.random() < LEAVING
        clients.append(
            Arrival(at, question, draw.randrange(question.tokens // 2) if leaves else None)
        )
        at += draw.expovariate(rate)
    return clients


def troubles(seed: int, seconds: float, every: float, ranks: int = 2) -> list[Trouble]:
    """A fault every so many seconds: all kinds in turn, in an order of their own each time."""
    draw = random.Random(seed)
    faults: list[Trouble] = []
    kinds: list[Kind | Outside] = []
    for number in range(1, int(seconds / every + 0.5)):
        kinds = kinds or draw.sample([*Kind, *Outside], k=len(Kind) + len(Outside))
        kind, rank = kinds.pop(), draw.randrange(ranks)
        what: Fault | Outside
        if isinstance(kind, Outside):
            what = kind
        else:
            what = Fault(kind, rank, draw.choice(list(Place)), draw.choice(list(Phase)))
        faults.append(Trouble(number * every, what, rank, draw.uniform(0.5, 3.0)))
    return faults
