"""What can be done to an engine, where, and when: described, written down, chosen. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import product


class Kind(StrEnum):
    """What happens to the engine."""

    KILL = "kill"
    """SIGKILL."""
    STOP = "stop"
    """SIGSTOP, for good."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT a moment later."""
    RAISE = "raise"
    """An exception on its engine thread."""
    SLOW = "slow"
    """Every launch takes ten times as long, until the order is withdrawn."""
    CUT = "cut"
    """The TCP connections of its stream are shut down."""


class Place(StrEnum):
    """Where in a launch, seen from the collectives in it."""

    BEFORE = "before"
    """This rank has issued none of the launch, and is done with those before."""
    IN = "in"
    """The other rank waits in one that this rank has not entered."""
    AFTER = "after"
    """This rank is done with all of the launch, and has not answered."""


class Phase(StrEnum):
    """What kind of launch."""

    PREFILL = "prefill"
    DECODE = "decode"


FATAL = (Kind.KILL, Kind.STOP, Kind.RAISE)
"""Kinds that an epoch can't outlive."""
MATRIX = (Kind.KILL, Kind.STOP, Kind.PAUSE, Kind.RAISE, Kind.SLOW)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one engine, at the `count`-th launch of its phase from now on."""

    kind: Kind
    rank: int
    place: Place
    phase: Phase
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind} of rank {self.rank} {self.place} a collective in {self.phase}"

    def write(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Fault:
        """What `write` wrote; raises ValueError or KeyError for anything else."""
        fields = json.loads(line)
        return cls(
            Kind(fields["kind"]),
            int(fields["rank"]),
            Place(fields["place"]),
            Phase(fields["phase"]),
            int(fields["count"]),
        )


def matrix(kinds: Iterable[Kind] = MATRIX, ranks: Iterable[int] = (0, 1)) -> list[Fault]:
    """Every kind, on every rank, at every place, in every phase; the count differs."""
    cases = product(kinds, ranks, Place, Phase)
    return [
        Fault(kind, rank, place, phase, 1 + (3 * number % 20 if phase is Phase.DECODE else 0))
        for number, (kind, rank, place, phase) in enumerate(cases)
    ]


def covering(faults: Sequence[Fault], seed: int) -> list[Fault]:
    """A few of `faults`, chosen at random, among which each of their kinds, ranks, places and
    phases is met."""
    left = list(faults)
    random.Random(seed).shuffle(left)
    chosen: list[Fault] = []
    while wanted := _aspects(faults) - _aspects(chosen):
        best = max(left, key=lambda fault: len(_aspects([fault]) & wanted))
        chosen.append(best)
        left.remove(best)
    return chosen


def _aspects(faults: Iterable[Fault]) -> set[object]:
    return {
        aspect
        for fault in faults
        for aspect in (fault.kind, f"rank {fault.rank}", fault.place, fault.phase)
    }
