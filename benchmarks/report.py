"""The comparison as a Markdown table, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.pinning import CAN_PIN, environment
from benchmarks.rows import AT_LEAST, Result, Sample, verdicts
from cluster.core.versions import versions
from cluster.node.hardware import read_hardware


def machine_facts() -> dict[str, str]:
    """What figures depend on."""
    hardware = read_hardware()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{hardware.chip}, {os.cpu_count()} cores, "
        f"{hardware.memory_bytes / 2**30:.0f} GiB, {platform.system()} {platform.machine()}",
        "versions": f"Tandem {versions().tandem}, mlx {version('mlx')}, mlx-lm "
        f"{version('mlx-lm')}, Python {platform.python_version()}",
        "blas": environment().get("LD_PRELOAD", "") or "the one MLX is linked to",
        "pinning": "one core and one BLAS thread per rank" if CAN_PIN else "cores not pinned",
    }


def markdown(results: Sequence[Result], problems: Sequence[str], rounds: int) -> str:
    """A table that can be pasted into docs/measurements.md, what was left out, and a caption."""
    lines = [
        "| model | ranks | measure | ours | against | theirs | value (rounds) | bound | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result, met in zip(results, verdicts(results), strict=True):
        lines.append(f"| {' | '.join(_cells(result, met))} |")
    if problems:
        lines += ["", *(f"- not measured: {problem}" for problem in problems)]
    facts = "; ".join(machine_facts().values())
    caption = (
        f"{rounds} rounds, contestants measured in turn. A value is the median of each round's own "
        "quotient; in brackets are the rounds. Of the two rows of 8 streams, and of those of 16, "
        f"one must hold. {facts}."
    )
    lines += ["", caption]
    return "\n".join(lines)


def _cells(result: Result, met: bool) -> Sequence[str]:
    row = result.row
    against = ""
    if row.theirs is not None:
        same = row.theirs.who == row.ours.who
        against = "itself" if same else row.theirs.who
    who = "" if row.bound is not None or row.theirs is not None else f"{row.ours.who}: "
    if row.bound is None and row.theirs is not None and row.theirs.who == row.ours.who:
        who = f"{row.ours.who}: "
    unit = "x" if row.over is not None else "s" if row.ours.name.endswith("_seconds") else "tok/s"
    spread = ", ".join(_number(value) for value in result.values)
    bound = "" if row.bound is None else f"{row.sense} {row.bound:g}"
    verdict = "" if row.bound is None else ("yes" if met else "no")
    if verdict == "yes" and not result.holds:
        verdict = "by the other"
    ranks = "2 and 1" if row.over is not None else str(row.ours.ranks)
    return (
        result.model,
        ranks,
        who + row.what,
        f"{_number(result.ours)} {unit}",
        against,
        "" if result.theirs is None else f"{_number(result.theirs)} {unit}",
        f"{_number(result.value)} ({spread})",
        bound,
        verdict,
    )


def _number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def save_json(
    path: Path, samples: Sequence[Sample], results: Sequence[Result], problems: Sequence[str]
) -> None:
    """Every sample, and what follows from them."""
    met = verdicts(results)
    document = {
        "facts": machine_facts(),
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "results": [
            {**dataclasses.asdict(result), "value": result.value, "met": verdict}
            for result, verdict in zip(results, met, strict=True)
        ],
        "problems": list(problems),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def plot(path: Path, results: Sequence[Result]) -> None:
    """How far each bounded row is from its bound: right of the line is better. The suffix of
    `path` is the format."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    bounded = [result for result in results if result.row.bound is not None]
    if not bounded:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.28 * len(bounded)), layout="constrained")
    names = []
    for place, result in enumerate(reversed(bounded)):
        margins = [_margin(result, value) for value in result.values]
        middle = _margin(result, result.value)
        axes.barh(place, middle - 1, left=1, color="#4878a8" if middle >= 1 else "#c0504d")
        axes.plot(margins, [place] * len(margins), "o", color="black", markersize=3)
        names.append(_label(result))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params("x", which="both", labelsize=7)
    axes.set_xlabel("times better than the bound (dots: rounds)")
    facts = machine_facts()
    axes.set_title(f"{facts['machine']}\n{facts['versions']}, {facts['date']}", fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


def _margin(result: Result, value: float) -> float:
    bound = result.row.bound
    assert bound is not None
    return value / bound if result.row.sense == AT_LEAST else bound / value


def _label(result: Result) -> str:
    row = result.row
    other = ""
    if row.theirs is not None and row.theirs.who != row.ours.who and row.over is None:
        other = f" / {row.theirs.who}"
    ranks = "" if row.over is not None else f" (ranks: {row.ours.ranks})"
    return f"{result.model}{ranks}: {row.what}{other}"
