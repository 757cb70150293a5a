"""The report: one HTML file that asks nothing of any other host. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from cluster.bench.figures import Summary, Values, arrivals_of_tokens, latencies
from cluster.bench.result import Level, Request, Run, Slo
from cluster.bench.slo import words
from cluster.bench.style import STYLE, level_colours
from cluster.bench.svg import Bar, Series, axis, bars, lines
from cluster.bench.table import ms, number

CURVE = 200
"""Points of a distribution's curve."""
ROWS = 150
"""Requests of a timeline that are drawn."""
SLICES = 100
"""Of a timeline."""

TITLES = {
    "ttft_planned": "TTFT",
    "ttft": "TTFT from sending",
    "itl": "ITL",
    "e2e_planned": "E2E",
    "e2e": "E2E from sending",
    "gap": "gap between pieces",
}


def report(run: Run, summaries: Sequence[Summary], warnings: Sequence[str]) -> str:
    """The whole page."""
    title = f"{run.model}: tandem bench"
    sections = [
        _head(run),
        _warnings(warnings),
        _table(run, summaries),
        _trade(run, summaries),
        _distributions(run),
        _timelines(run),
        _foot(run),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}{level_colours(len(run.levels))}</style>"
        f"</head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _head(run: Run) -> str:
    asked = run.asked
    facts = [
        f"prompts of {asked.prompt} tokens",
        f"answers of {asked.output} tokens",
        *([f"{asked.prefix} tokens of prefix shared"] if asked.prefix else []),
        *([f"{asked.turns} turns, {asked.think:g} s apart"] if asked.turns > 1 else []),
        *([f"{asked.cancel:.0%} of requests hung up on"] if asked.cancel else []),
        *([f"SLO: {words(asked.slo)}"] if asked.slo != Slo() else []),
    ]
    return (
        f"<header><h1>{escape(run.model)}</h1><p>{escape(run.url)}, {escape(run.started)}"
        f"{', interrupted' if run.interrupted else ''}</p>"
        f"<p>{escape('; '.join(facts))}.</p></header>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}.</li>" for warning in warnings)
    return f'<section class="beware"><h2>Beware</h2><ul>{items}</ul></section>'


def _table(run: Run, summaries: Sequence[Summary]) -> str:
    judged = run.asked.slo != Slo()
    names = ["load", "ok", "failed", "left", "req/s", "out tok/s", "prompt", "cached", "answer"]
    names += [f"{t} {p}" for t in ("TTFT", "ITL", "E2E") for p in ("p50", "p95", "p99")]
    names += ["good/s", "good"] if judged else []
    rows = []
    for level, summary in zip(run.levels, summaries, strict=True):
        cells = [str(level.load), str(summary.ok), str(summary.failed), str(summary.cancelled)]
        cells += [number(summary.request_rate), number(summary.output_rate)]
        cells += [
            number(summary.prompt_tokens),
            number(summary.cached_tokens),
            number(summary.output_tokens),
        ]
        for name in ("ttft_planned", "itl", "e2e_planned"):
            spread = summary.spreads[name]
            points = (spread.p50, spread.p95, spread.p99) if spread else (None,) * 3
            cells += [ms(point) for point in points]
        if judged:
            share = "-" if summary.attained is None else f"{summary.attained:.0%}"
            cells += [number(summary.goodput), share]
        first, *rest = map(escape, cells)
        rows.append(
            f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return (
        '<section><h2>Figures</h2><div class="wide"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "<p class=note>Times in ms, TTFT and E2E from when a request was due. Prompt, cached and "
        "answer are tokens of a request, mean. Left: clients that hung up on purpose.</p></section>"
    )


def _trade(run: Run, summaries: Sequence[Summary]) -> str:
    """Throughput against latency, a point for each level."""
    if len(summaries) < 2:
        return ""
    figures = []
    most = max(summary.output_rate for summary in summaries)
    x = axis("output tokens per second", most)
    for name in ("ttft_planned", "itl", "e2e_planned"):
        series = []
        for point, style in (("p50", "one"), ("p95", "two")):
            places, labels = [], []
            for level, summary in zip(run.levels, summaries, strict=True):
                if spread := summary.spreads[name]:
                    value = 1000 * (spread.p50 if point == "p50" else spread.p95)
                    places.append((summary.output_rate, value))
                    labels.append(str(level.load))
            series.append(Series(point, style, places, labels, marks=True, named=point == "p95"))
        highest = max((b for each in series for _, b in each.points), default=0.0)
        title = f"{TITLES[name]} against throughput"
        y = axis(f"{TITLES[name]}, ms", highest)
        figures.append(_figure(title, lines(title, x, y, series)))
    return _section("Throughput against latency", figures)


def _distributions(run: Run) -> str:
    """The share of requests that took at most so long."""
    figures = []
    for name in ("ttft_planned", "itl", "e2e_planned", "gap"):
        series, most = [], 0.0
        for index, level in enumerate(run.levels):
            values = 1000 * latencies(level.requests, name)
            if len(values):
                most = max(most, float(np.percentile(values, 99)))
                series.append(Series(str(level.load), f"l{index}", _curve(values)))
        if series:
            title = f"Distribution of {TITLES[name]}"
            what = "gaps" if name == "gap" else "requests"
            x, y = axis(f"{TITLES[name]}, ms", most), axis(f"% of {what}", 100.0)
            figures.append(_figure(title, lines(title, x, y, series)))
    return _section("Distributions", figures, "How many took at most so long; up to p99.")


def _curve(values: Values) -> list[tuple[float, float]]:
    shares = np.linspace(0.0, 100.0, min(CURVE, len(values) + 1))
    points = np.percentile(values, shares)
    return [(float(a), float(b)) for a, b in zip(points, shares, strict=True)]


def _timelines(run: Run) -> str:
    figures = []
    for index, level in enumerate(run.levels):
        if not level.requests:
            continue
        last = max(request.end for request in level.requests)
        x = axis("seconds", last)
        figures.append(_rate_over_time(level, x.most, f"l{index}"))
        drawn = sorted(level.requests, key=lambda r: (r.planned, r.session, r.turn))[:ROWS]
        title = f"Requests at {level.load}"
        note = f", the first {ROWS}" if len(level.requests) > ROWS else ""
        rows = [bar for row, request in enumerate(drawn) for bar in _bars(row, request)]
        figures.append(_figure(f"{title}{note}", bars(title, x, len(drawn), rows)))
    legend = (
        '<p class="legend"><span class="key waiting">until the first token</span>'
        '<span class="key one">answer</span><span class="key bad">failed</span></p>'
    )
    return _section("Timeline", figures, "Each request is a line, from when it was due.", legend)


def _rate_over_time(level: Level, most: float, style: str) -> str:
    times, tokens = arrivals_of_tokens(level.requests)
    count = max(1, min(SLICES, int(4 * most)))
    sums, edges = np.histogram(times, bins=count, range=(0.0, most), weights=tokens)
    rates = sums / (edges[1] - edges[0])
    middles = (edges[:-1] + edges[1:]) / 2
    places = [(float(a), float(b)) for a, b in zip(middles, rates, strict=True)]
    title = f"Output at {level.load}"
    y = axis("tokens per second", float(rates.max()))
    series = [Series("tokens per second", style, places, area=True)]
    return _figure(title, lines(title, axis("seconds", most), y, series))


def _bars(row: int, request: Request) -> list[Bar]:
    said = (
        f"session {request.session}, turn {request.turn + 1}: {request.status}, "
        f"{request.output_tokens} tokens, TTFT "
        f"{ms(None if request.first is None else request.first - request.planned)} ms, E2E "
        f"{ms(request.end - request.planned)} ms"
    )
    if request.status == "failed":
        return [Bar(row, request.planned, request.end, "bad", f"{said}: {request.detail}")]
    first = request.end if request.first is None else request.first
    waited = Bar(row, request.planned, first, "waiting", said)
    return [waited, Bar(row, first, request.end, "one", said)]


def _foot(run: Run) -> str:
    facts = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in run.environment.items()
    )
    client = "".join(
        f"<tr><th scope=row>client at {escape(str(level.load))}</th><td>{level.client.cpu:.0%} of "
        f"a core, up to {ms(level.client.lag)} ms late (p99)</td></tr>"
        for level in run.levels
    )
    return (
        f'<section><h2>Client</h2><div class="wide"><table>{facts}{client}</table></div></section>'
    )


def _section(title: str, figures: Sequence[str], note: str = "", legend: str = "") -> str:
    if not figures:
        return ""
    told = f"<p class=note>{escape(note)}</p>" if note else ""
    return (
        f"<section><h2>{escape(title)}</h2>{told}{legend}"
        f'<div class="charts">{"".join(figures)}</div></section>'
    )


def _figure(title: str, drawn: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"
