"""Figures on a terminal. Pure: summaries in, something to print out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.bench.compare import Row
from cluster.bench.figures import Summary
from cluster.bench.result import Level, Run, Slo
from cluster.bench.slo import words

SHOWN = (
    ("ttft_planned", "TTFT", "p50"),
    ("ttft_planned", "TTFT", "p95"),
    ("itl", "ITL", "p50"),
    ("itl", "ITL", "p95"),
    ("e2e_planned", "E2E", "p50"),
)
"""Latencies that fit 80 columns."""


def number(value: float | None) -> str:
    """Three digits that count, no exponent."""
    if value is None:
        return "-"
    value = float(f"{value:.3g}")
    if abs(value) >= 100:
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 or not value else 3
    return f"{value:.{digits}f}"


def ms(seconds: float | None) -> str:
    """The same in milliseconds."""
    return number(None if seconds is None else 1000 * seconds)


def results(run: Run, summaries: Sequence[Summary], warnings: Sequence[str]) -> RenderableType:
    """A row for each level, what it means, and what to be wary of."""
    judged = run.asked.slo != Slo()
    failed = any(summary.failed for summary in summaries)
    left = any(summary.cancelled for summary in summaries)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("load", no_wrap=True)
    names = ["ok", *(["left"] if left else []), *(["fail"] if failed else []), "req/s", "tok/s"]
    names += [f"{title}\n{point}" for _, title, point in SHOWN]
    for name in [*names, *(["good\n/s", "good"] if judged else [])]:
        table.add_column(name, justify="right")
    for level, summary in zip(run.levels, summaries, strict=True):
        cells = [str(level.load), str(summary.ok)]
        cells += [str(summary.cancelled)] if left else []
        cells += [str(summary.failed)] if failed else []
        cells += [number(summary.request_rate), number(summary.output_rate)]
        spreads = [(summary.spreads[name], point) for name, _, point in SHOWN]
        cells += [ms(getattr(spread, point) if spread else None) for spread, point in spreads]
        if judged:
            share = "-" if summary.attained is None else f"{summary.attained:.0%}"
            cells += [number(summary.goodput), share]
        table.add_row(*cells)
    notes = [_asked(run), *_sent(run.levels, summaries)]
    if judged:
        notes.append(f"Good: {words(run.asked.slo)}.")
    parts: list[RenderableType] = [table, Text(), *(Text(note, style="dim") for note in notes)]
    parts += [Text(f"Beware: {warning}.", style="yellow") for warning in warnings]
    return Group(*parts)


def _asked(run: Run) -> str:
    asked = run.asked
    more = [f"prompts {asked.prompt}", f"answers {asked.output} tokens"]
    more += [f"{asked.prefix} tokens of them shared"] if asked.prefix else []
    if asked.turns > 1:
        more.append(f"sessions of {asked.turns} turns, {asked.think:g} s apart")
    more += [f"{asked.cancel:.0%} hung up on"] if asked.cancel else []
    return (
        f"{run.model} at {run.url}: {', '.join(more)}. Times in ms, TTFT and E2E from when a "
        "request was due."
    )


def _sent(levels: Sequence[Level], summaries: Sequence[Summary]) -> list[str]:
    """Latencies counted from sending, where that is another number."""
    notes = []
    for level, summary in zip(levels, summaries, strict=True):
        sent, due = summary.spreads["e2e"], summary.spreads["e2e_planned"]
        first = summary.spreads["ttft"]
        if sent and due and first and due.p95 > 1.01 * sent.p95 + 0.001:
            notes.append(
                f"At {level.load}, from when it was sent: TTFT {ms(first.p50)}, {ms(first.p95)}; "
                f"E2E {ms(sent.p50)}, {ms(sent.p95)}."
            )
    return notes


def comparison(
    rows: Sequence[Row], names: tuple[str, str], differences: Sequence[str]
) -> RenderableType:
    """A row for each figure of both runs."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("load", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in (*names, "ratio", "95% interval"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("", no_wrap=True)
    styles = {"better": "green", "worse": "red", "same": "dim"}
    before = None
    for row in rows:
        of, unit = (ms, "ms") if row.unit == "s" else (number, "/s")
        verdict = "within noise" if row.verdict == "same" else row.verdict
        table.add_row(
            "" if row.load == before else str(row.load),
            f"{row.name}, {unit}" if unit == "ms" else f"{row.name}{unit}",
            of(row.ours),
            of(row.theirs),
            f"{row.ratio:.3f}",
            f"{row.low:.3f} - {row.high:.3f}",
            Text(verdict, style=styles[row.verdict]),
        )
        before = row.load
    note = (
        "Ratio: second to first. Its interval is what moved within the two runs; from run to run "
        "a machine may move more: repeat both before believing a small difference."
    )
    parts: list[RenderableType] = [table, Text(), Text(note, style="dim")]
    parts += [Text(f"Beware: not asked alike: {line}.", style="yellow") for line in differences]
    return Group(*parts)
