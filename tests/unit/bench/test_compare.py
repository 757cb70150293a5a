from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from cluster.bench.compare import compare, differences, interval
from cluster.bench.load import Load
from cluster.bench.result import Level, Slo
from cluster.core.errors import BadConfiguration
from tests.unit.bench.levels import ASKED, level, request, run


def noisy(seed: int, slower: float = 1.0, load: Load = Load("closed", 1.0)) -> Level:  # noqa: B008
    chance = Random(seed)

    def one(n: int) -> object:
        return request(
            n / 10,
            ttft=slower * chance.uniform(0.4, 0.6),
            itl=slower * chance.uniform(0.08, 0.12),
        )

    return level(*(one(n) for n in range(100)), load=load)  # type: ignore[arg-type]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        a, b = chance.normal(10, 2, 60), chance.normal(12, 2, 60)
        low, high = interval(lambda values: values.mean(axis=-1), (a, b))
        held += low <= 1.2 <= high
    assert 88 <= held <= 100


def test_two_runs_of_the_same_are_the_same() -> None:
    rows = compare(run(noisy(1)), run(noisy(2)))
    names = [row.name for row in rows]
    assert names[:2] == ["output tokens", "requests"]
    assert {"TTFT p50", "TTFT p95", "ITL p50", "ITL p95", "E2E p50", "E2E p95"} <= {*names}
    assert [row.verdict for row in rows].count("same") >= len(rows) - 1
    assert all(row.low <= row.ratio <= row.high for row in rows)


def test_what_is_slower_is_worse() -> None:
    slower = compare(run(noisy(1)), run(noisy(2, slower=1.3)))
    verdicts = {row.name: row.verdict for row in slower}
    assert verdicts["TTFT p50"] == verdicts["ITL p50"] == verdicts["E2E p95"] == "worse"
    faster = compare(run(noisy(2, slower=1.3)), run(noisy(1)))
    assert next(row for row in faster if row.name == "ITL p50").verdict == "better"


def test_more_throughput_is_better() -> None:
    twice = level(*(request(n / 20) for n in range(200)))
    rows = compare(run(noisy(1)), run(twice))
    row = next(row for row in rows if row.name == "output tokens")
    assert row.verdict == "better"
    assert row.ratio == pytest.approx(2.0, rel=0.1)


def test_goodput_is_compared_under_the_same_slo_alone() -> None:
    slo = Slo(ttft=1.0)
    assert "goodput" in [
        row.name for row in compare(run(noisy(1), slo=slo), run(noisy(2), slo=slo))
    ]
    rows = compare(run(noisy(1), slo=slo), run(noisy(2), slo=Slo(ttft=2.0)))
    assert "goodput" not in [row.name for row in rows]


def test_only_loads_that_both_have() -> None:
    two = Load("closed", 2)
    rows = compare(run(noisy(1), noisy(1, load=two)), run(noisy(2, load=two)))
    assert {row.load for row in rows} == {two}
    with pytest.raises(BadConfiguration, match="1 client and 2 clients"):
        compare(run(noisy(1)), run(noisy(2, load=two)))


def test_a_level_without_answers_has_no_rows() -> None:
    assert compare(run(level()), run(noisy(1))) == []


def test_what_was_asked_differently_is_named() -> None:
    first = run(noisy(1))
    assert differences(first, first) == []
    other = replace(first, asked=replace(ASKED, prefix=9), model="b", environment={"tandem": "1"})
    assert differences(first, other) == [
        "prefix: 0 and 9",
        "model: demo and b",
        "tandem of the client: 0 and 1",
    ]
