"""What the comparison makes of its figures."""

from __future__ import annotations

import pytest

from benchmarks.names import PEER, RAW, TANDEM
from benchmarks.report import markdown
from benchmarks.rows import Figure, Result, Sample, evaluate, rows, verdicts


def samples(number: int, model: str = "m", **values: float) -> list[Sample]:
    """Figures of one round; a name is who_ranks_figure."""
    who = {"t": TANDEM, "p": PEER, "r": RAW}
    found = []
    for name, value in values.items():
        whose, ranks, figure = name.split("_", 2)
        found.append(Sample(model, number, Figure(who[whose], int(ranks), figure), value))
    return found


def only(what: str, against: str | None, results: list[Result]) -> Result:
    (result,) = (
        r
        for r in results
        if r.row.what == what and (None if r.row.theirs is None else r.row.theirs.who) == against
    )
    return result


def test_a_value_is_the_median_of_each_rounds_own_quotient() -> None:
    taken = [
        *samples(0, t_1_decode_rate=10, r_1_decode_rate=10),
        *samples(1, t_1_decode_rate=40, r_1_decode_rate=20),
        *samples(2, t_1_decode_rate=30, r_1_decode_rate=100),
    ]
    result = only("one stream, decode", RAW, evaluate(rows([1]), taken, "m"))
    assert result.values == (1.0, 2.0, 0.3)
    assert result.value == 1.0
    assert (result.ours, result.theirs) == (30, 20)
    assert result.holds


def test_a_round_without_one_of_the_figures_does_not_count() -> None:
    taken = [*samples(0, t_1_decode_rate=10, r_1_decode_rate=20), *samples(1, t_1_decode_rate=90)]
    assert only("one stream, decode", RAW, evaluate(rows([1]), taken, "m")).values == (0.5,)
    assert evaluate(rows([1]), taken, "another") == []


def test_two_ranks_over_one_is_held_against_the_raw_loops_own_ratio() -> None:
    taken = samples(
        0, t_2_prefill_rate=160, t_1_prefill_rate=100, r_2_prefill_rate=180, r_1_prefill_rate=90
    )
    (result,) = (r for r in evaluate(rows([1, 2]), taken, "m") if r.row.over is not None)
    assert result.ours == pytest.approx(1.6)
    assert result.theirs == pytest.approx(2.0)
    assert result.value == pytest.approx(0.8)
    assert not result.holds


def test_seconds_hold_at_or_below_their_bound() -> None:
    what = "free after a hang-up in prefill"
    for seconds, holds in ((0.6, True), (0.61, False)):
        taken = samples(0, t_1_free_seconds=seconds)
        assert only(what, None, evaluate(rows([1]), taken, "m")).holds is holds


@pytest.mark.parametrize(("peer", "raw", "met"), [(50, 200, True), (90, 101, True), (90, 200, 0)])
def test_several_streams_need_only_one_of_the_two_bounds(peer: int, raw: int, met: bool) -> None:
    taken = [
        *samples(0, t_1_batch8_rate=100, p_1_batch8_rate=peer, r_1_batch8_rate=raw),
        # Another model's success is not this one's.
        *samples(0, "n", t_1_batch8_rate=100, p_1_batch8_rate=1, r_1_batch8_rate=1),
    ]
    results = [r for model in ("m", "n") for r in evaluate(rows([1]), taken, model)]
    assert verdicts(results) == [bool(met)] * 2 + [True] * 2


def test_the_table_has_a_line_for_each_row_and_for_what_is_missing() -> None:
    taken = samples(0, t_1_decode_rate=9, r_1_decode_rate=10, p_1_gap_seconds=5)
    text = markdown(evaluate(rows([1]), taken, "m"), ["m: no --kv-dir"], 1)
    assert "| m | 1 | one stream, decode | 9 tok/s | raw loop | 10 tok/s | 0.9 (0.9) |" in text
    assert "| at least 0.97 | no |" in text
    assert "| mlx_lm.server: worst gap beside a long prefill | 5 s |" in text
    assert "- not measured: m: no --kv-dir" in text
