"""Two runs beside each other: what is different, and what only looks so. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.bench.figures import Values, arrivals_of_tokens, good, latencies
from cluster.bench.load import Load
from cluster.bench.result import Level, Run, Slo
from cluster.core.errors import BadConfiguration

RESAMPLES = 2000
COVERAGE = 95
"""Percent of resamples that lie in the interval."""
SLICES = 20
"""At most, into which a window is cut to see how much its rates move."""
SAMPLE = 20_000
"""Values of a distribution that are resampled at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both runs."""

    load: Load
    name: str
    unit: str
    """"s" or "/s"."""
    ours: float
    """Of the first run."""
    theirs: float
    """Of the second."""
    low: float
    """Of the ratio, second to first: its 95% interval."""
    high: float
    more_is_better: bool

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    @property
    def verdict(self) -> str:
        """Whether the second is better or worse; "same" where the interval holds 1."""
        if self.low <= 1 <= self.high:
            return "same"
        return "better" if (self.ratio > 1) == self.more_is_better else "worse"


def compare(first: Run, second: Run) -> list[Row]:
    """Rows of the loads that both have; raises BadConfiguration when there are none.

    Intervals are percentile bootstraps: latencies are resampled by request, rates by slices of
    the window. They hold what moved within each run, not what moves from run to run.
    """
    theirs = {level.load: level for level in second.levels}
    common = [(level, theirs[level.load]) for level in first.levels if level.load in theirs]
    if not common:
        raise BadConfiguration(
            f"the runs have no load in common: {_loads(first)} and {_loads(second)}"
        )
    rows = []
    for a, b in common:
        rows += _rates(a, b, first.asked.slo, second.asked.slo)
        for name in ("ttft_planned", "itl", "e2e_planned"):
            for point in (50, 95):
                rows += _latency(a, b, name, point)
    return rows


def differences(first: Run, second: Run) -> list[str]:
    """What was not asked alike, which makes a comparison doubtful."""
    found = []
    for name in ("prompt", "output", "prefix", "turns", "think", "cancel", "temperature", "fields"):
        a, b = getattr(first.asked, name), getattr(second.asked, name)
        if a != b:
            found.append(f"{name}: {a} and {b}")
    if first.model != second.model:
        found.append(f"model: {first.model} and {second.model}")
    for name in sorted(first.environment.keys() & second.environment.keys()):
        a, b = first.environment[name], second.environment[name]
        if a != b:
            found.append(f"{name} of the client: {a} and {b}")
    return found


def _loads(run: Run) -> str:
    return ", ".join(str(level.load) for level in run.levels)


def _latency(a: Level, b: Level, name: str, point: int) -> list[Row]:
    ours, theirs = latencies(a.requests, name), latencies(b.requests, name)
    if len(ours) < 2 or len(theirs) < 2:
        return []

    def of(values: Values) -> Values:
        found: Values = np.percentile(values, point, axis=-1)
        return found

    label = f"{name.removesuffix('_planned').upper()} p{point}"
    return [_row(a.load, label, "s", of, (ours, theirs), more_is_better=False)]


def _rates(a: Level, b: Level, slo: Slo, other: Slo) -> list[Row]:
    def of(values: Values) -> Values:
        mean: Values = values.mean(axis=-1)
        return mean

    kinds: dict[str, Callable[[Level], tuple[Values, Values]]] = {
        "output tokens": lambda level: arrivals_of_tokens(level.requests),
        "requests": lambda level: _ends(level, Slo()),
    }
    if slo == other != Slo():
        kinds["goodput"] = lambda level: _ends(level, slo)
    rows = []
    for name, amounts in kinds.items():
        ours, theirs = (_slices(*amounts(level), level.window) for level in (a, b))
        if ours.any() and theirs.any():
            rows.append(_row(a.load, name, "/s", of, (ours, theirs), more_is_better=True))
    return rows


def _ends(level: Level, slo: Slo) -> tuple[Values, Values]:
    """When answers that kept the SLO ended; one each."""
    ends = np.array([request.end for request in level.requests if good(request, slo)])
    return ends, np.ones(len(ends))


def _slices(times: Values, amounts: Values, window: float) -> Values:
    """Amounts a second in equal slices of the window."""
    count = int(np.clip(window, 4, SLICES))
    edges = np.linspace(0.0, max(window, 1e-9), count + 1)
    sums, _ = np.histogram(times, bins=edges, weights=amounts)
    rates: Values = sums / (edges[1] - edges[0])
    return rates


def _row(
    load: Load,
    name: str,
    unit: str,
    of: Callable[[Values], Values],
    values: tuple[Values, Values],
    *,
    more_is_better: bool,
) -> Row:
    ours, theirs = (float(of(each)) for each in values)
    low, high = interval(of, values)
    return Row(load, name, unit, ours, theirs, low, high, more_is_better)


def interval(
    of: Callable[[Values], Values], values: Sequence[Values], seed: int = 0
) -> tuple[float, float]:
    """The interval of of(second) / of(first), by a percentile bootstrap (Efron 1979)."""
    chance = np.random.default_rng(seed)
    drawn = []
    for each in values:
        if len(each) > SAMPLE:
            each = chance.choice(each, SAMPLE, replace=False)
        rows = max(1, min(RESAMPLES, 4_000_000 // len(each)))
        parts = []
        for begin in range(0, RESAMPLES, rows):
            shape = (min(rows, RESAMPLES - begin), len(each))
            parts.append(of(each[chance.integers(0, len(each), shape)]))
        drawn.append(np.concatenate(parts))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[1] / drawn[0]
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return 0.0, float("inf")
    edge = (100 - COVERAGE) / 2
    low, high = np.percentile(ratios, (edge, 100 - edge))
    return float(low), float(high)
