"""How much is asked at a time: so many clients, or so many arrivals a second. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from cluster.core.errors import BadConfiguration

LEVELS = 20
"""Of one run at most."""
CLIENTS = 2000
RATE = 2000.0
"""Requests a second at most: above, one process could not send them on time."""


@dataclass(frozen=True, slots=True)
class Load:
    """One level of a run.

    Closed: `size` clients, each of which asks again when it has its answer. Open: `size`
    arrivals a second, as a Poisson process, however many answers are still missing.
    """

    kind: Literal["closed", "open"]
    size: float

    def __str__(self) -> str:
        if self.kind == "open":
            return f"{self.size:g} req/s"
        return "1 client" if self.size == 1 else f"{self.size:g} clients"


def parse_loads(text: str, kind: Literal["closed", "open"], option: str) -> list[Load]:
    """A list with commas; raises BadConfiguration, naming `option`."""
    most = CLIENTS if kind == "closed" else RATE
    loads = []
    for word in text.split(","):
        try:
            size = float(word)
        except ValueError:
            size = math.nan
        if not 0 < size <= most or (kind == "closed" and size != int(size)):
            what = "whole numbers of clients" if kind == "closed" else "requests a second"
            raise BadConfiguration(
                f"{option} {text}: {word or 'nothing'} is none of {what} up to {most:g}; it looks "
                "like 1,4,8"
            )
        loads.append(Load(kind, size))
    if len(loads) > LEVELS:
        raise BadConfiguration(f"{option}: {len(loads)} levels are more than {LEVELS}")
    return loads


def arrivals(rate: float, chance: Random) -> Iterator[float]:
    """When requests arrive, in seconds from the beginning, without end: gaps are exponential
    with a mean of 1 / rate, which makes it a Poisson process."""
    at = 0.0
    while True:
        at += chance.expovariate(rate)
        yield at
