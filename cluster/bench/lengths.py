"""How long prompts and answers are to be: distributions, in tokens. Pure; chance is passed in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from cluster.core.errors import BadConfiguration

LONGEST = 1_000_000
"""Tokens. More than any context: a slip of the pen."""
TAIL = 8
"""A normal or lognormal length is cut at so many times its middle."""
PAIRS = 100_000
"""Lines of a file at most."""

FORMS = (
    "128, 64-512 (uniform), normal:256,64 (mean, deviation) or lognormal:256,0.8 (median, sigma)"
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """One distribution. `low` and `high` bound a uniform one; else they are its two parameters."""

    kind: str
    low: float
    high: float

    def draw(self, chance: Random) -> int:
        """A length of at least one token."""
        match self.kind:
            case "uniform":
                return chance.randint(int(self.low), int(self.high))
            case "normal":
                value = chance.gauss(self.low, self.high)
            case _:
                value = chance.lognormvariate(math.log(self.low), self.high)
        return round(min(max(1.0, value), TAIL * self.low, LONGEST))


def parse_lengths(text: str, option: str) -> Lengths:
    """What a person writes for a distribution; raises BadConfiguration, naming `option`."""
    number = r"\d+(?:\.\d+)?"
    if found := re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip()):
        low = int(found[1])
        lengths = Lengths("uniform", low, int(found[2] or low))
        good = lengths.low <= lengths.high <= LONGEST
    elif found := re.fullmatch(rf"(normal|lognormal):({number}),({number})", text.strip()):
        lengths = Lengths(found[1], float(found[2]), float(found[3]))
        good = lengths.low <= LONGEST and (lengths.kind == "normal" or lengths.high <= 5)
    else:
        raise BadConfiguration(f"{option} {text} is no number of tokens; it can be {FORMS}")
    if not good or lengths.low < 1:
        raise BadConfiguration(
            f"{option} {text}: lengths are 1 to {LONGEST} tokens, the smaller one first; it can "
            f"be {FORMS}"
        )
    return lengths


class Pairs(Protocol):
    """Prompt and answer of one request."""

    def draw(self, chance: Random) -> tuple[int, int]:
        """(tokens of the prompt, tokens of the answer)."""
        ...


@dataclass(frozen=True, slots=True)
class Independent:
    """Both drawn by themselves."""

    prompt: Lengths
    output: Lengths

    def draw(self, chance: Random) -> tuple[int, int]:
        return self.prompt.draw(chance), self.output.draw(chance)


@dataclass(frozen=True, slots=True)
class Listed:
    """One of a list, each as likely as the others: what a log says of real requests."""

    pairs: Sequence[tuple[int, int]]

    def draw(self, chance: Random) -> tuple[int, int]:
        return chance.choice(self.pairs)


def parse_pairs(text: str, name: str) -> Listed:
    """A file with a pair on each line, `prompt,output`; a first line of names and lines that
    begin with # are passed over. Raises BadConfiguration, with the number of the line."""
    pairs: list[tuple[int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = re.split(r"[\s,;]+", line.strip())
        if not pairs and number == 1 and not words[0].isdigit():
            continue
        if len(words) != 2 or not all(w.isdecimal() and 1 <= int(w) <= LONGEST for w in words):
            raise BadConfiguration(
                f"{name} line {number}: two lengths of 1 to {LONGEST} tokens belong here, of a "
                "prompt and of its answer, as in 512,64"
            )
        pairs.append((int(words[0]), int(words[1])))
    if not 1 <= len(pairs) <= PAIRS:
        raise BadConfiguration(f"{name} has {len(pairs)} pairs of lengths; 1 to {PAIRS} are read")
    return Listed(tuple(pairs))
