"""Tandem beside mlx_lm.server and a raw mlx-lm loop: same model, same BLAS, same cores, one run.

    .venv/bin/python -m benchmarks.compare [--models demo,llama_30m] [--ranks 1,2] [--rounds 3]
        [--rows decode,batch,...] [--out DIR] [--quick]

Each round starts every contestant, and measures one thing of each in turn before the next, since
the speed of a machine may change by the minute; those that wait do nothing, if need be because
they are stopped. Rounds alternate their order. Prints a Markdown table, and writes compare.md,
compare.json and compare.svg. It takes a good half hour and a machine with nothing else to do;
--quick takes a few minutes, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from benchmarks import measures, pinning, report
from benchmarks.contestants import other_cores, peer, raw, tandem
from benchmarks.measures import Figures, Skipped
from benchmarks.models import LENGTHS, Subject, prepare
from benchmarks.names import PEER, RAW, TANDEM
from benchmarks.rows import Figure, Result, Sample, evaluate, rows, verdicts
from benchmarks.streams import ContestFailed

GROUPS = ("decode", "batch", "prefill", "hangup", "gap", "schema", "edit", "draft", "restart")
"""In the order in which they are measured."""
SERVED = {
    "decode": measures.served_decode,
    "batch": measures.served_batch,
    "prefill": measures.served_prefill,
    "hangup": measures.served_hang_up,
    "gap": measures.served_gap,
}
RAW_LOOP = {
    "decode": measures.raw_decode,
    "batch": measures.raw_batch,
    "prefill": measures.raw_prefill,
}

FAILURES = (
    ContestFailed,
    AssertionError,
    OSError,
    httpx.HTTPError,
    subprocess.SubprocessError,
)
"""What a contestant may do wrong (tests/e2e's server speaks in assertions): its figures are
missing then, and the run goes on."""

Measured = Generator[tuple[str, Callable[[], Figures]], None, None]
"""Names of groups and what measures them, inside the life of one contestant."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where in the run something is measured."""

    model: str
    ranks: int
    round: int
    who: str

    def __str__(self) -> str:
        return f"{self.model}, ranks {self.ranks}, round {self.round + 1}, {self.who}"


@dataclass(slots=True)
class Comparison:
    """What has been measured so far."""

    wanted: frozenset[str]
    """Groups."""
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, subject: Subject, ranks: int, number: int) -> None:
        """One round on one model with one number of ranks: all contestants are started, and take
        turns at each group."""
        salt = f"{number}{ranks}"
        contest = {
            TANDEM: self._tandem(subject, ranks, salt),
            PEER: self._peer(subject, ranks, salt),
            RAW: self._raw(subject, ranks, salt),
        }
        order = list(contest) if number % 2 == 0 else list(reversed(contest))
        with pinning.on_cores(other_cores(ranks)), ExitStack() as stack:
            for measured in contest.values():
                stack.enter_context(closing(measured))  # or its contestant would run on
            due: dict[str, tuple[str, Callable[[], Figures]] | None] = {}
            for group in ("warm", *GROUPS):
                for who in order:
                    session = Session(subject.name, ranks, number, who)
                    try:
                        if who not in due:
                            due[who] = next(contest[who], None)
                        if (turn := due[who]) is not None and turn[0] == group:
                            self._take(session, *turn)
                            due[who] = next(contest[who], None)
                    except FAILURES as error:
                        self._problem(f"{session}: {_one_line(error)}")
                        contest[who].close()
                        due[who] = None

    def _take(self, session: Session, group: str, measure: Callable[[], Figures]) -> None:
        begin = time.monotonic()
        try:
            figures = measure()
        except Skipped as reason:
            self._problem(f"{session}, {group}: {reason}")
            return
        for name, value in figures.items():
            figure = Figure(session.who, session.ranks, name)
            self.samples.append(Sample(session.model, session.round, figure, value))
        said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        say(f"{session}: {group} ({time.monotonic() - begin:.1f} s) {said}")

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        say(f"NOT MEASURED: {text}")

    def _tandem(self, subject: Subject, ranks: int, salt: str) -> Measured:
        if chosen := [group for group in (*SERVED, "schema") if group in self.wanted]:
            with tandem(subject.folder, ranks) as it:
                yield "warm", partial(measures.served_warm, it, subject, salt)
                for group, measure in {**SERVED, "schema": measures.tandem_schema}.items():
                    if group in chosen:
                        yield group, partial(measure, it, subject, salt)
        if "edit" in self.wanted:
            with tandem(subject.edit_folder, ranks) as editor:
                yield "edit", partial(measures.served_edit, editor, subject, salt)
        if "draft" in self.wanted:
            yield "draft", partial(measures.tandem_draft, subject, ranks, salt)
        if "restart" in self.wanted:
            yield "restart", partial(measures.tandem_restart, subject, ranks, salt)

    def _peer(self, subject: Subject, ranks: int, salt: str) -> Measured:
        if chosen := [group for group in SERVED if group in self.wanted]:
            with peer(subject.folder, ranks) as it:
                # Its ranks spin while they wait for a request.
                awake = partial(pinning.awake, it.processes)
                pinning.pause(it.processes)
                yield "warm", partial(awake, partial(measures.served_warm, it, subject, salt))
                for group in chosen:
                    yield group, partial(awake, partial(SERVED[group], it, subject, salt))

    def _raw(self, subject: Subject, ranks: int, salt: str) -> Measured:
        if chosen := [group for group in RAW_LOOP if group in self.wanted]:
            with raw(subject.folder, ranks) as it:
                yield "warm", partial(measures.raw_warm, it, subject, salt)
                for group in chosen:
                    measure = RAW_LOOP[group]
                    yield group, partial(measure, it, subject, salt)
        if "edit" in self.wanted:
            with raw(subject.edit_folder, ranks) as editor:
                yield "edit", partial(measures.raw_edit, editor, subject, salt)


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def choose(text: str, known: Sequence[str]) -> list[str]:
    """The names in a list with commas; ends the process at one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"not known: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(LENGTHS))
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks, of 1 and 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(GROUPS), help="which measures")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--quick", action="store_true", help="tiny lengths, to see it work")
    options = parser.parse_args()
    names = choose(options.models, list(LENGTHS))
    worlds = [int(ranks) for ranks in choose(options.ranks, ["1", "2"])]
    comparison = Comparison(frozenset(choose(options.rows, GROUPS)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every block is left
    options.out.mkdir(parents=True, exist_ok=True)

    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        subjects = [prepare(name, Path(folder), quick=options.quick) for name in names]
        for number in range(options.rounds):
            for subject in subjects:
                for ranks in worlds:
                    comparison.run(subject, ranks, number)
            results = save(comparison, names, worlds, number + 1, options.out)
    bounded = [r.row.bound is not None for r in results]
    met = sum(each for each, counts in zip(verdicts(results), bounded, strict=True) if counts)
    say(f"{met} of {sum(bounded)} rows met; written to {options.out}")
    return 1 if comparison.problems else 0


def save(
    comparison: Comparison, names: Sequence[str], worlds: Sequence[int], rounds: int, out: Path
) -> list[Result]:
    """Write what there is after a round, so that a run that is ended leaves something."""
    table = rows(worlds)
    results = [r for name in names for r in evaluate(table, comparison.samples, name)]
    text = report.markdown(results, comparison.problems, rounds)
    (out / "compare.md").write_text(text + "\n")
    report.save_json(out / "compare.json", comparison.samples, results, comparison.problems)
    report.plot(out / "compare.svg", results)
    print(text, flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
