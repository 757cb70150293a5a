"""Every fault on a live stream, one after the other: `python -m tests.chaos.faults --all`.

Prints a table, and exits with 1 when an answer was not what it is without a fault, a slow engine
ended an epoch, or it took too long.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.chaos.client import WORDS, Question, Stream
from tests.chaos.cluster import ChaosCluster
from tests.chaos.fault import FATAL, MATRIX, Fault, Kind, Phase, covering, matrix
from tests.e2e.cluster_process import wait_until

MEDIAN_SECONDS = {Kind.KILL: 6.0, Kind.STOP: 14.0}
"""From a fault to the next token, at most."""
PAUSE_SECONDS = 1.5
"""Between SIGSTOP and SIGCONT: too short to be a death."""
SLOW_SECONDS = 4.0
"""How long an engine is slow."""
CASE_SECONDS = 120.0
PROMPT_WORDS = 1500
"""Of a prompt that is prefilled in three chunks or more: no chunk has more than 2,048 tokens."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fault."""

    fault: Fault
    seconds: float
    """From the fault to the next token."""
    same: bool
    """The text is that of the undisturbed run, whole and without an error."""
    epochs: int
    """Begun because of it."""
    note: str = ""

    @property
    def good(self) -> bool:
        """As it has to be: equal text, and an epoch that ended if it had to, or could not. One
        that is stopped for a moment may be overdue where the machine is busy besides."""
        if self.fault.kind in FATAL:
            return self.same and self.epochs >= 1
        return self.same and (self.epochs == 0 or self.fault.kind is Kind.PAUSE)


def question(fault: Fault, number: int) -> Question:
    """One that nobody has asked before, so that its prompt has to be computed."""
    if fault.phase is Phase.DECODE:
        return Question(f"{number}. What is Tandem?", 100, varied=number % 2 == 0)
    words = [WORDS[(i * i + number) % len(WORDS)] for i in range(PROMPT_WORDS)]
    return Question(f"{number}. repeat after me: {' '.join(words)}", 24, varied=number % 2 == 0)


def run(cluster: ChaosCluster, faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Each of them, in an order in which what the undisturbed runs have left in the caches is
    lost at first."""
    ordered = sorted(faults, key=lambda fault: (fault.kind not in FATAL, fault.phase != "decode"))
    asked = [question(fault, number) for number, fault in enumerate(ordered)]
    texts = [_answer(cluster, each) for each in asked]
    for fault, each, text in zip(ordered, asked, texts, strict=True):
        yield _disturb(cluster, fault, each, text)


def _answer(cluster: ChaosCluster, asked: Question) -> str:
    record = Stream(cluster.server.url, asked).join(CASE_SECONDS)
    assert record.over and record.count == asked.tokens, record
    return record.text


def _disturb(cluster: ChaosCluster, fault: Fault, asked: Question, text: str) -> Outcome:
    before = cluster.wait_formed()
    cluster.arm(fault)
    stream = Stream(cluster.server.url, asked)
    fired = wait_until(lambda: cluster.fired(fault), CASE_SECONDS, f"{fault} happens")
    if fault.kind is Kind.PAUSE:
        cluster.resume_later(fired, PAUSE_SECONDS)
    if fault.kind is Kind.SLOW:
        _wait(lambda: not stream.alive, SLOW_SECONDS)
        cluster.disarm(fault)
    record = stream.join(CASE_SECONDS)
    after = cluster.wait_formed()
    cluster.server.wait_idle()
    whole = record.over and not record.error and record.count == asked.tokens
    note = record.error or record.broken or ("" if whole else f"{record.count} tokens")
    same = whole and record.text == text
    return Outcome(fault, record.pause(fired.at), same, after - before, note)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Until it is true, but no longer."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def medians(outcomes: Sequence[Outcome]) -> dict[Kind, float]:
    """Seconds from a fault to the next token, by kind."""
    by_kind = {outcome.fault.kind: [0.0][:0] for outcome in outcomes}
    for outcome in outcomes:
        by_kind[outcome.fault.kind].append(outcome.seconds)
    return {kind: median(seconds) for kind, seconds in by_kind.items()}


def row(outcome: Outcome) -> str:
    """Its line of the table."""
    fault = outcome.fault
    place = f"{fault.place} a collective, {fault.phase}"
    same = "yes" if outcome.same else f"**no** {outcome.note}"
    told = (fault.kind, fault.rank, place, f"{outcome.seconds:.1f}", same, outcome.epochs)
    return f"| {' | '.join(map(str, told))} |"


HEAD = """\
| fault | rank | where | s to the next token | text equal | new epochs |
|---|---|---|---|---|---|"""


def main() -> None:
    """Run, print, and say by the exit status whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="all of them, not a few that cover all")
    parser.add_argument("--seed", type=int, default=1, help="chooses the few")
    parser.add_argument(
        "--kinds", nargs="+", type=Kind, choices=MATRIX, default=MATRIX, help="of these only"
    )
    arguments = parser.parse_args()
    cases = matrix(arguments.kinds)
    faults = cases if arguments.all else covering(cases, arguments.seed)
    outcomes = []
    print(HEAD)
    with ChaosCluster.run() as cluster:
        try:
            for outcome in run(cluster, faults):
                outcomes.append(outcome)
                print(row(outcome), flush=True)
        finally:
            print(cluster.server.output, file=sys.stderr)
    print("\n| fault | runs | median s to the next token | longest |\n|---|---|---|---|")
    middle = medians(outcomes)
    for kind, seconds in middle.items():
        each = [outcome.seconds for outcome in outcomes if outcome.fault.kind is kind]
        print(f"| {kind} | {len(each)} | {seconds:.1f} | {max(each):.1f} |")
    slow = {kind for kind, most in MEDIAN_SECONDS.items() if middle.get(kind, 0.0) > most}
    sys.exit(0 if all(outcome.good for outcome in outcomes) and not slow else 1)


if __name__ == "__main__":
    main()
