"""From timings to figures: percentiles, rates, goodput. Pure; times in seconds.

- TTFT: from sending a request to the first piece of its answer.
- ITL: of one request, (last piece - first piece) / (output tokens - 1).
- E2E: from sending a request to the end of its answer.
- `..._planned`: the same from when the request was due. In an open loop a slow client or server
  makes requests late, and only this counts their wait (no coordinated omission).
- gap: from one piece to the next, over all requests; a piece may hold several tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench.result import Level, Request, Slo

Values = NDArray[np.float64]

LATENCIES = ("ttft", "ttft_planned", "itl", "e2e", "e2e_planned", "gap")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of many values: how many, their mean, and percentiles.

    The p-th percentile of n sorted values lies at (n - 1) * p / 100, counted from 0, between two
    values on a straight line: type 7 of Hyndman and Fan (1996), numpy's default.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float


def spread(values: Values) -> Spread | None:
    """None of no values."""
    if not len(values):
        return None
    p50, p90, p95, p99 = map(float, np.percentile(values, (50, 90, 95, 99)))
    return Spread(len(values), float(values.mean()), p50, p90, p95, p99, float(values.max()))


def latency(request: Request, name: str) -> float | None:
    """One of LATENCIES but gap; None where the request has none. E2E is of whole answers."""
    name, _, planned = name.partition("_")
    begin = request.planned if planned else request.sent
    match name:
        case "ttft":
            return None if request.first is None else request.first - begin
        case "itl":
            if request.first is None or request.last is None or request.output_tokens < 2:
                return None
            if request.status != "ok":
                return None
            return (request.last - request.first) / (request.output_tokens - 1)
        case _:
            return request.end - begin if request.status == "ok" else None


def latencies(requests: Sequence[Request], name: str) -> Values:
    """All there are of one of LATENCIES; those of failed requests are not latencies."""
    answered = [request for request in requests if request.status in ("ok", "cancelled")]
    if name == "gap":
        return np.array([gap for request in answered for gap in request.gaps])
    found = (latency(request, name) for request in answered)
    return np.array([value for value in found if value is not None])


def good(request: Request, slo: Slo) -> bool:
    """A whole answer that was as fast as it should be, counted from when it was due."""
    if request.status != "ok":
        return False
    limits = {"ttft_planned": slo.ttft, "itl": slo.itl, "e2e_planned": slo.e2e}
    for name, limit in limits.items():
        value = latency(request, name)
        if limit is not None and value is not None and value > limit:
            return False
    return True


def pieces(request: Request) -> Values:
    """When each piece of the answer came. Where gaps were not kept they are taken to be equal."""
    if request.first is None or request.last is None:
        return np.array([])
    if request.gaps or request.output_tokens < 2:
        times: Values = request.first + np.concatenate(([0.0], np.cumsum(request.gaps)))
        return times
    return np.linspace(request.first, request.last, request.output_tokens)


def share(request: Request, window: float) -> float:
    """How much of a whole answer came within the window."""
    return float(np.mean(pieces(request) <= window)) if request.first is not None else 0.0


def arrivals_of_tokens(requests: Sequence[Request]) -> tuple[Values, Values]:
    """(when, how many): each piece of every answer, with an equal share of its tokens."""
    times, tokens = [np.array([])], [np.array([])]
    for request in requests:
        came = pieces(request)
        if len(came):
            times.append(came)
            tokens.append(np.full(len(came), request.output_tokens / len(came)))
    return np.concatenate(times), np.concatenate(tokens)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one level."""

    requests: int
    ok: int
    cancelled: int
    failed: int
    unfinished: int
    errors: dict[str, int]
    """Failures by kind."""
    request_rate: float
    """Whole answers a second."""
    output_rate: float
    """Tokens a second that came, of all requests."""
    input_rate: float | None
    """Tokens of the prompts of those whole answers, a second; None where they are not counted."""
    goodput: float | None
    """Whole answers a second that kept the SLO; None without one."""
    attained: float | None
    """Share of all requests but cancelled and unfinished ones that kept it."""
    late: float
    """99 of 100 requests were sent less than this after they were due."""
    prompt_tokens: float | None
    """Of a request, mean."""
    cached_tokens: float | None
    output_tokens: float | None
    tokens_per_piece: float | None
    spreads: dict[str, Spread | None]
    """By LATENCIES."""


def summarise(level: Level, slo: Slo) -> Summary:
    """Rates are over the window: tokens by when they came; an answer counts by the share of it
    that came within the window, so that it matters little where the edge cuts. Latencies are of
    all requests."""
    requests = level.requests
    whole = [request for request in requests if request.status == "ok"]
    window = max(level.window, 1e-9)
    times, tokens = arrivals_of_tokens(requests)
    asked = slo != Slo()
    judged = [request for request in requests if request.status in ("ok", "failed")]
    count = sum(len(request.gaps) + 1 for request in whole if request.gaps)
    counts = Counter(request.status for request in requests)
    shares = [(share(request, level.window), request) for request in whole]
    read = [part * r.prompt_tokens for part, r in shares if r.prompt_tokens is not None]
    return Summary(
        requests=len(requests),
        ok=counts["ok"],
        cancelled=counts["cancelled"],
        failed=counts["failed"],
        unfinished=counts["unfinished"],
        errors=dict(Counter(r.error or "?" for r in requests if r.status == "failed")),
        request_rate=sum(part for part, _ in shares) / window,
        output_rate=float(tokens[(times >= 0) & (times <= level.window)].sum()) / window,
        input_rate=sum(read) / window if read else None,
        goodput=sum(part for part, r in shares if good(r, slo)) / window if asked else None,
        attained=sum(good(r, slo) for r in judged) / len(judged) if asked and judged else None,
        late=float(np.percentile([r.sent - r.planned for r in requests], 99)) if requests else 0.0,
        prompt_tokens=_mean([r.prompt_tokens for r in whole]),
        cached_tokens=_mean([r.cached_tokens for r in whole]),
        output_tokens=_mean([r.output_tokens for r in whole]),
        tokens_per_piece=(sum(r.output_tokens for r in whole if r.gaps) / count if count else None),
        spreads={name: spread(latencies(requests, name)) for name in LATENCIES},
    )


def as_data(summary: Summary) -> dict[str, Any]:
    """For JSON."""
    return asdict(summary)


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
