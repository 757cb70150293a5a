"""Every request and every token, under load and faults: `python -m tests.chaos.ledger`.

Clients come as a Poisson process whatever becomes of those before them, and a tenth hang up.
Prints a table, and exits with 1 when something was lost, came twice, was wrong or is left over.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from statistics import median
from typing import Any

from tests.chaos.client import Question, Record, Stream
from tests.chaos.cluster import ChaosCluster, Fired
from tests.chaos.fault import Kind
from tests.chaos.schedule import Arrival, Outside, Trouble, arrivals, questions, troubles
from tests.e2e.cluster_process import wait_until

ERRORS = 0.01
"""Share of requests that may end with an explicit error."""
GROWTH = 1.1
"""Of the coordinator's memory, at most: prefixes and rings fill up to their bounds."""
FIRE_SECONDS = 20.0
"""Until an engine has a launch of the phase in which it is to fail."""
END_SECONDS = 120.0
"""For the last answers to end."""
LEFT_OVER = ("channels", "sequences", "slots", "journal", "orphan_tokens")


@dataclass(frozen=True, slots=True)
class Reference:
    """An answer as it is without a fault."""

    text: str
    tokens: Sequence[str]
    """Named by the stream, where that was asked for."""


@dataclass(slots=True)
class Verdict:
    """What has come of one request."""

    end: str
    """"completed", "hung up", an error's code, or "lost" when it ended without a word."""
    lost: int = 0
    """Tokens that did not come."""
    twice: int = 0
    """Tokens that came again."""
    wrong: bool = False
    """Its text is not that of the reference, or not how that begins."""


def judge(record: Record, question: Question, reference: Reference) -> Verdict:
    """Hold what came against the reference."""
    if record.error:
        verdict = Verdict(record.error)
    elif record.over and record.finish:
        verdict = Verdict("completed")
    else:
        verdict = Verdict("hung up" if record.hung_up else "lost")
    whole = verdict.end == "completed"
    expected = reference.text if whole else reference.text[: len(record.text)]
    verdict.wrong = record.text != expected
    if whole and record.count is not None:
        verdict.lost = max(0, question.tokens - record.count)
        verdict.twice = max(0, record.count - question.tokens)
    if question.told:
        tokens = reference.tokens if whole else reference.tokens[: len(record.tokens)]
        lost, twice = _compare(tokens, record.tokens)
        verdict.lost, verdict.twice = max(verdict.lost, lost), max(verdict.twice, twice)
    return verdict


def _compare(expected: Sequence[str], got: Sequence[str]) -> tuple[int, int]:
    """How many of the expected tokens did not come, and how many came beyond them."""
    lost = twice = 0
    matcher = SequenceMatcher(None, expected, got, autojunk=False)
    for tag, begin, end, first, last in matcher.get_opcodes():
        if tag != "equal":
            lost += end - begin
            twice += last - first
    return lost, twice


@dataclass(slots=True)
class Books:
    """What happened, and what is left."""

    verdicts: list[Verdict] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    """Of each fault the longest, in seconds, if an answer was on its way."""
    faults: Counter[str] = field(default_factory=Counter)
    epochs: int = 0
    """Begun after the first."""
    left: Mapping[str, int] = field(default_factory=dict)
    """What must be zero."""
    size: tuple[float, float] = (0.0, 0.0)
    """The coordinator's resident MiB before and after."""
    handles: tuple[int, int] = (0, 0)
    """Its open files."""
    tasks: tuple[int, int] = (0, 0)

    def unmet(self) -> list[str]:
        """Every line that is not as it has to be."""
        sent, ends = len(self.verdicts), self.ends()
        errors = sent - ends["completed"] - ends["hung up"] - ends["lost"]
        lines = {
            "lost": ends["lost"] + sum(verdict.lost for verdict in self.verdicts),
            "duplicated": sum(verdict.twice for verdict in self.verdicts),
            "wrong text": sum(verdict.wrong for verdict in self.verdicts),
            "errors": errors if errors > ERRORS * sent else 0,
            "memory": self.size[1] > GROWTH * self.size[0],
            "tasks": self.tasks[1] > self.tasks[0] + 1,
            **self.left,
        }
        return [f"{name}: {count}" for name, count in lines.items() if count]

    def ends(self) -> Counter[str]:
        """How many requests ended how."""
        return Counter(verdict.end for verdict in self.verdicts)

    def table(self) -> str:
        """All of it, for people."""
        ends = self.ends()
        errors = {end: n for end, n in ends.items() if end not in ("completed", "hung up", "lost")}
        named = ", ".join(f"{count} {end}" for end, count in errors.items())
        pauses = self.pauses or [0.0]
        rows = {
            "requests sent": len(self.verdicts),
            "completed": ends["completed"],
            "explicit errors": f"{sum(errors.values())}" + (f" ({named})" if named else ""),
            "hung up": ends["hung up"],
            "requests lost": ends["lost"],
            "tokens lost": sum(verdict.lost for verdict in self.verdicts),
            "tokens duplicated": sum(verdict.twice for verdict in self.verdicts),
            "wrong texts": sum(verdict.wrong for verdict in self.verdicts),
            "faults": f"{self.faults.total()} ("
            + ", ".join(f"{n} {kind}" for kind, n in sorted(self.faults.items()))
            + ")",
            "new epochs": self.epochs,
            "longest pause of an answer that had begun, for each fault": (
                f"median {median(pauses):.1f} s, at most {max(pauses):.1f} s"
            ),
            **{f"{name} at the end": count for name, count in self.left.items()},
            "coordinator's tasks, before and after": "{} / {}".format(*self.tasks),
            "coordinator's open files, before and after": "{} / {}".format(*self.handles),
            "coordinator's memory, before and after": "{:.0f} / {:.0f} MiB".format(*self.size),
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| what | count |", "|---|---|", *lines])


def undisturbed(cluster: ChaosCluster, asked: Sequence[Question]) -> dict[Question, Reference]:
    """Every answer, one at a time and without a fault."""
    answers = {}
    for question in asked:
        record = Stream(cluster.server.url, question).join(END_SECONDS)
        assert record.over and record.count == question.tokens, record
        answers[question] = Reference(record.text, tuple(record.tokens))
    return answers


def keep(
    cluster: ChaosCluster,
    clients: Sequence[Arrival],
    faults: Sequence[Trouble],
    answers: Mapping[Question, Reference],
    say: bool = True,
) -> Books:
    """Let them all come, and write down what comes of it."""
    books = Books()
    process = cluster.coordinator
    before = cluster.server.wait_idle()
    size, handles = process.memory_info().rss, process.num_fds()
    begin = time.monotonic()
    with _troubled(cluster, faults, begin, say) as happened:
        streams = [_come(cluster, client, begin) for client in clients]
        records = [stream.join(END_SECONDS) for stream in streams]
    cluster.wait_formed()
    after = cluster.server.wait_idle(30)
    books.left = {name: after["counters"][name] for name in LEFT_OVER}
    books.tasks = (before["counters"]["tasks"], after["counters"]["tasks"])
    books.size = (size / 2**20, process.memory_info().rss / 2**20)
    books.handles = (handles, process.num_fds())
    books.epochs = after["epoch"] - before["epoch"]
    books.verdicts = [
        judge(record, stream.question, answers[stream.question])
        for record, stream in zip(records, streams, strict=True)
    ]
    for trouble, fired in happened:
        kind = trouble.what if isinstance(trouble.what, Outside) else trouble.what.kind
        books.faults[kind] += 1
        pauses = [record.pause(fired.at) for record in records if _live(record, fired)]
        books.pauses += [max(pauses)] if pauses else []
        if say:
            longest = f"{max(pauses):.1f} s" if pauses else "nobody noticed"
            print(f"{fired.at - begin:6.1f} s  {trouble}: {longest}", file=sys.stderr)
    return books


def _come(cluster: ChaosCluster, client: Arrival, begin: float) -> Stream:
    time.sleep(max(0.0, begin + client.at - time.monotonic()))
    return Stream(cluster.server.url, client.question, leave_after=client.leave_after)


def _live(record: Record, fired: Fired) -> bool:
    """It had begun to be answered then, and went on: it was no longer waiting for its turn."""
    return bool(record.arrivals) and record.arrivals[0] < fired.at < record.arrivals[-1]


@contextmanager
def _troubled(
    cluster: ChaosCluster, faults: Sequence[Trouble], begin: float, say: bool
) -> Iterator[list[tuple[Trouble, Fired]]]:
    """Have them happen meanwhile; what has happened, and when."""
    happened: list[tuple[Trouble, Fired]] = []
    over = threading.Event()
    failed: list[BaseException] = []

    def cause() -> None:
        try:
            for trouble in faults:
                if over.wait(max(0.0, begin + trouble.at - time.monotonic())):
                    return
                happened.append((trouble, _cause(cluster, trouble)))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=cause, daemon=True)
    thread.start()
    try:
        yield happened
    finally:
        over.set()
        thread.join(2 * FIRE_SECONDS)
    if failed:
        raise failed[0]


def _cause(cluster: ChaosCluster, trouble: Trouble) -> Fired:
    """One fault."""
    match trouble.what:
        case Outside.AGENT:
            return cluster.agents[trouble.rank].kill()
        case Outside.LINE:
            cluster.agents[trouble.rank].proxy.cut()
            return Fired(0, time.monotonic())
        case fault:
            # Where a machine has just been lost, there may be one rank for a while.
            fault = replace(fault, rank=min(fault.rank, cluster.world() - 1))
            cluster.arm(fault)
            try:
                fired: Fired = wait_until(
                    lambda: cluster.fired(fault), FIRE_SECONDS, f"{fault} happens"
                )
                if fault.kind is Kind.PAUSE:
                    cluster.resume_later(fired, trouble.seconds)
                if fault.kind is Kind.SLOW:
                    time.sleep(trouble.seconds)
            finally:
                cluster.disarm(fault)
            return fired


def run(seconds: float, every: float, rate: float, seed: int, *options: Any) -> Books:
    """A cluster of its own, from its start to its end."""
    asked = questions(seed)
    with ChaosCluster.run(*options) as cluster:
        try:
            answers = undisturbed(cluster, asked)
            clients = arrivals(seed, seconds, rate, asked)
            return keep(cluster, clients, troubles(seed, seconds, every), answers)
        finally:
            print(cluster.server.output, file=sys.stderr)


def main() -> None:
    """Run, print, and say by the exit status whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between faults")
    parser.add_argument("--rate", type=float, default=1.0, help="clients a second")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    books = run(arguments.seconds, arguments.every, arguments.rate, arguments.seed)
    print(books.table())
    for line in books.unmet():
        print(f"not met: {line}")
    sys.exit(1 if books.unmet() else 0)


if __name__ == "__main__":
    main()
