"""What is compared when two load generators run at the same time."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.agreement import _cut, table
from cluster.bench.figures import summarise
from cluster.bench.result import Slo
from tests.unit.bench.levels import level, request


def test_a_cut_has_whole_requests_and_the_tokens_of_its_time() -> None:
    # Four tokens each: at 0.5 to 0.8, 1.5 to 1.8 and so on, in Unix time from 1000.
    whole = replace(level(*(request(float(n)) for n in range(6))), began=1000.0)
    cut = _cut(whole, 1000.65, 1003.65)
    assert cut.window == 3.0
    assert [r.status for r in cut.requests] == ["unfinished", "ok", "ok", "unfinished"]
    figures = summarise(cut, Slo())
    assert figures.ok == 2
    assert figures.output_rate * 3 == 2 + 4 + 4 + 2


def test_a_table_names_what_is_apart() -> None:
    first = {"a": 1.04, "b": 1.0}, {"a": 1.0, "b": 2.0}
    second = {"a": 1.5, "b": 1.0}, {"a": 1.5, "b": 2.0}
    text, apart = table([first, second])
    assert apart == ["b"]
    assert "| a | 1.27 | 1.25 | 1.020 (1.040, 1.000) | yes |" in text
    assert "| b | 1 | 2 | 0.500 (0.500, 0.500) | no |" in text
