from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench.figures import (
    LATENCIES,
    arrivals_of_tokens,
    good,
    latencies,
    latency,
    spread,
    summarise,
)
from cluster.bench.load import Load
from cluster.bench.result import Client, Slo
from cluster.bench.warnings import warnings
from tests.unit.bench.levels import failed, level, request


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_on_straight_lines_between_values(values: list[float]) -> None:
    found = spread(np.array(values))
    assert found is not None
    ranked = sorted(values)
    for share, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        place = (len(values) - 1) * share
        below = ranked[int(place)]
        above = ranked[min(int(place) + 1, len(values) - 1)]
        wanted = below + (place - int(place)) * (above - below)
        assert value == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert found.most == max(values)
    assert found.count == len(values)


def test_no_values_have_no_spread() -> None:
    assert spread(np.array([])) is None


def test_latencies_of_one_request() -> None:
    late = request(2.0, sent=3.0, ttft=0.5, itl=0.1)
    found = {name: latency(late, name) for name in LATENCIES if name != "gap"}
    assert found == pytest.approx(
        {"ttft": 0.5, "ttft_planned": 1.5, "itl": 0.1, "e2e": 0.8, "e2e_planned": 1.8}
    )


def test_itl_is_by_token_and_gaps_are_by_piece() -> None:
    drafted = request(itl=0.3, output_tokens=10)  # four pieces
    assert latency(drafted, "itl") == pytest.approx(0.1)
    assert latencies([drafted], "gap") == pytest.approx([0.3] * 3)
    assert latency(request(output_tokens=1), "itl") is None


def test_what_was_hung_up_on_has_a_ttft_but_no_end() -> None:
    left = request(status="cancelled")
    assert latency(left, "ttft") == 0.5
    assert latency(left, "e2e") is None
    assert latency(left, "itl") is None
    assert len(latencies([left], "ttft")) == 1
    assert len(latencies([failed(first=1.0), request(status="unfinished")], "ttft")) == 0


def test_rates_count_what_came_within_the_window() -> None:
    # Tokens at 0.5, 0.6, 0.7, 0.8 and at 1.5, 1.6, 1.7, 1.8: six of eight, one and a half answers.
    figures = summarise(level(request(0.0), request(1.0), window=1.65), Slo())
    assert figures.output_rate == pytest.approx(6 / 1.65)
    assert figures.request_rate == pytest.approx(1.5 / 1.65)
    assert figures.input_rate == pytest.approx(1.5 * 128 / 1.65)
    assert figures.spreads["e2e"] is not None
    assert figures.spreads["e2e"].count == 2  # also the one that ended later


def test_tokens_of_a_piece_count_when_it_came() -> None:
    times, tokens = arrivals_of_tokens([request(output_tokens=8), failed()])
    assert times == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert tokens == pytest.approx([2.0] * 4)


def test_where_gaps_were_not_kept_they_are_equal() -> None:
    times, tokens = arrivals_of_tokens([replace(request(), gaps=())])
    assert times == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert tokens.sum() == 4


def test_goodput_counts_from_when_a_request_was_due() -> None:
    slo = Slo(ttft=1.0, itl=0.2, e2e=2.0)
    assert good(request(0.0), slo)
    assert not good(request(0.0, sent=0.6), slo)
    assert not good(request(itl=0.3), slo)
    assert not good(request(itl=0.19, ttft=0.99, end=2.1), slo)
    assert not good(failed(), slo)
    requests = [request(0.0), request(1.0, ttft=1.5), failed(), request(status="cancelled")]
    figures = summarise(level(*requests), slo)
    assert figures.goodput == pytest.approx(0.1)
    assert figures.attained == pytest.approx(1 / 3)
    without = summarise(level(*requests), Slo())
    assert (without.goodput, without.attained) == (None, None)


def test_counts_and_means() -> None:
    figures = summarise(
        level(
            request(cached_tokens=64),
            request(output_tokens=8),
            failed(),
            failed(error="timeout"),
            request(status="cancelled"),
            request(status="unfinished"),
        ),
        Slo(),
    )
    assert (figures.requests, figures.ok, figures.failed) == (6, 2, 2)
    assert (figures.cancelled, figures.unfinished) == (1, 1)
    assert figures.errors == {"http_500": 1, "timeout": 1}
    assert (figures.prompt_tokens, figures.cached_tokens, figures.output_tokens) == (128, 64, 6)
    assert figures.tokens_per_piece == 1.5


def test_an_empty_level_has_figures() -> None:
    figures = summarise(level(), Slo(ttft=1.0))
    assert figures.output_rate == figures.request_rate == 0
    assert figures.attained is None
    assert not any(figures.spreads.values())


def test_warnings() -> None:
    calm = level(*(request(n / 10) for n in range(30)))
    assert warnings(calm, summarise(calm, Slo())) == []

    def said(changed: object) -> str:
        assert isinstance(changed, type(calm))
        return " ".join(warnings(changed, summarise(changed, Slo())))

    assert "95% of a core" in said(replace(calm, client=Client(cpu=0.95, lag=0.0)))
    assert "40 ms late" in said(replace(calm, client=Client(cpu=0.1, lag=0.04)))
    late = tuple(replace(r, planned=r.planned - 1) for r in calm.requests)
    assert "1000 ms after" in said(replace(calm, load=Load("open", 3.0), requests=late))
    assert "1 of 31 failed (http_500 1): broken" in said(
        replace(calm, requests=(*calm.requests, failed()))
    )
    assert "only 3 answers" in said(replace(calm, requests=calm.requests[:3]))
    short = tuple(replace(r, output_tokens=2) for r in calm.requests)
    assert "30 of 30 answers were shorter" in said(replace(calm, requests=short))
