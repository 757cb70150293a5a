"""What must hold: each row is a quotient of figures, or a figure, and a bound. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.names import PEER, RAW, TANDEM

AT_LEAST, AT_MOST = "at least", "at most"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one contestant."""

    who: str
    ranks: int
    name: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure's value in one round, on one model."""

    model: str
    round: int
    figure: Figure
    value: float


@dataclass(frozen=True, slots=True)
class Row:
    """A measure: (ours / over) / (theirs / theirs_over), leaving out what is None."""

    group: str
    """What `--rows` chooses by."""
    what: str
    ours: Figure
    sense: str
    """AT_LEAST or AT_MOST."""
    bound: float | None
    """None where a row is shown for comparison only."""
    theirs: Figure | None = None
    over: Figure | None = None
    theirs_over: Figure | None = None
    either: str = ""
    """Rows with the same name here: one of them must hold."""


@dataclass(frozen=True, slots=True)
class Result:
    """A row on one model: medians over the rounds that have all of its figures."""

    row: Row
    model: str
    ours: float
    theirs: float | None
    values: tuple[float, ...]
    """What is held against the bound, by round."""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """By itself; see `verdicts`."""
        if self.row.bound is None:
            return True
        if self.row.sense == AT_LEAST:
            return self.value >= self.row.bound
        return self.value <= self.row.bound


def rows(worlds: Sequence[int]) -> list[Row]:
    """All rows for these numbers of ranks, in the order of the table."""
    found: list[Row] = []
    for ranks in worlds:
        found += _against_others(ranks)
    if {1, 2} <= set(worlds):
        found += [_scaling("decode", "decode_rate"), _scaling("prefill", "prefill_rate")]
    for ranks in worlds:
        found += _by_itself(ranks)
    return found


def _against_others(ranks: int) -> Iterator[Row]:
    def figure(who: str, name: str) -> Figure:
        return Figure(who, ranks, name)

    decode, drafts = figure(TANDEM, "decode_rate"), figure(TANDEM, "decode_drafts_rate")
    raw = figure(RAW, "decode_rate")
    # The issue has a bound for one rank; two share their cores with coordinator and client.
    limit = 0.97 if ranks == 1 else None
    yield Row("decode", "one stream, decode", decode, AT_LEAST, limit, raw)
    yield Row("decode", "the same with drafts on", drafts, AT_LEAST, None, raw)
    yield Row("decode", "one stream, decode", decode, AT_LEAST, 1.0, figure(PEER, "decode_rate"))
    for count in (8, 16):
        name = f"batch{count}_rate"
        ours, either = figure(TANDEM, name), f"{count} streams, {ranks}"
        what = f"{count} streams together"
        yield Row("batch", what, ours, AT_LEAST, 1.2, figure(PEER, name), either=either)
        yield Row("batch", what, ours, AT_LEAST, 0.95, figure(RAW, name), either=either)
    for who in (RAW, PEER):
        prefill = figure(TANDEM, "prefill_rate")
        yield Row("prefill", "prefill", prefill, AT_LEAST, None, figure(who, "prefill_rate"))
    yield Row(
        "edit",
        "text that repeats its prompt, decode",
        figure(TANDEM, "edit_rate"),
        AT_LEAST,
        1.8,
        figure(RAW, "edit_rate"),
    )


def _scaling(group: str, name: str) -> Row:
    return Row(
        group,
        f"{group} on 2 ranks over 1, against the raw loop's own ratio",
        Figure(TANDEM, 2, name),
        AT_LEAST,
        0.95,
        Figure(RAW, 2, name),
        over=Figure(TANDEM, 1, name),
        theirs_over=Figure(RAW, 1, name),
    )


def _by_itself(ranks: int) -> Iterator[Row]:
    for who in (TANDEM, PEER):  # the peer's are shown for comparison
        free, gap, retry, cold = (
            Figure(who, ranks, f"{name}_seconds") for name in ("free", "gap", "retry", "cold")
        )
        bounds = (0.6, 0.35, 0.05) if who == TANDEM else (None, None, None)
        yield Row("hangup", "free after a hang-up in prefill", free, AT_MOST, bounds[0])
        yield Row("gap", "worst gap beside a long prefill", gap, AT_MOST, bounds[1])
        what = "retry with another tail, first token over cold"
        yield Row("prefill", what, retry, AT_MOST, bounds[2], cold)
    right, wrong, without = (
        Figure(TANDEM, ranks, f"draft_{name}_rate") for name in ("right", "wrong", "free")
    )
    what = "decode with a one-layer draft model that is always right over without"
    yield Row("draft", what, right, AT_LEAST, None, without)
    what = "decode with a draft model that is never right over without"
    yield Row("draft", what, wrong, AT_LEAST, 0.9, without)
    disk, cold, schema, free = (
        Figure(TANDEM, ranks, name)
        for name in ("restart_seconds", "restart_cold_seconds", "schema_rate", "schema_free_rate")
    )
    what = "restart, same prompt from disk, first token over cold"
    yield Row("restart", what, disk, AT_MOST, 0.10, cold)
    yield Row("schema", "decode with a schema over without", schema, AT_LEAST, 0.90, free)


def evaluate(table: Sequence[Row], samples: Sequence[Sample], model: str) -> list[Result]:
    """The rows whose figures were all taken in at least one round."""
    by_round: dict[int, dict[Figure, float]] = {}
    for sample in samples:
        if sample.model == model:
            by_round.setdefault(sample.round, {})[sample.figure] = sample.value
    results = []
    for row in table:
        whole = [taken for taken in by_round.values() if _figures(row) <= taken.keys()]
        if whole:
            ours, theirs = zip(*(_sides(row, taken) for taken in whole), strict=True)
            values = tuple(a / b for a, b in zip(ours, theirs, strict=True))
            other = None if row.theirs is None else statistics.median(theirs)
            results.append(Result(row, model, statistics.median(ours), other, values))
    return results


def verdicts(results: Sequence[Result]) -> list[bool]:
    """Whether each row is met: it holds, or another of which only one must."""
    held = {(r.model, r.row.either) for r in results if r.row.either and r.holds}
    return [r.holds or (r.model, r.row.either) in held for r in results]


def _figures(row: Row) -> set[Figure]:
    return {f for f in (row.ours, row.theirs, row.over, row.theirs_over) if f is not None}


def _sides(row: Row, taken: Mapping[Figure, float]) -> tuple[float, float]:
    """(ours / over, theirs / theirs_over)."""

    def value(figure: Figure | None) -> float:
        return 1.0 if figure is None else taken[figure]

    return value(row.ours) / value(row.over), value(row.theirs) / value(row.theirs_over)
