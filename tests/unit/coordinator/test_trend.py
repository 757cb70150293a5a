from __future__ import annotations

import pytest

from cluster.coordinator.tally import Tally
from cluster.coordinator.trend import EVERY, KEPT, Load, Trend, quantile
from cluster.core.plan import StepResult
from cluster.core.view import Sample

LOAD = Load(3, 12.5, 100.0, 2, 4)
INF = float("inf")


def step(seconds: float) -> StepResult:
    return StepResult(1, 1, digest=0, decoded=(1,), prefilled=(), decode_seconds=seconds)  # type: ignore[arg-type]


def read(speed: float | None) -> StepResult:
    return StepResult(1, 1, digest=0, read_bytes_per_second=speed)  # type: ignore[arg-type]


def taken(trend: Trend, now: float, tally: Tally) -> Sample:
    trend.take(now, LOAD, tally)
    return trend.samples[-1]


def test_a_sample_is_due_every_few_seconds() -> None:
    trend = Trend()
    assert not trend.due(EVERY - 0.1)
    assert trend.due(EVERY)
    trend.take(EVERY + 2, LOAD, Tally())
    assert not trend.due(2 * EVERY)
    assert trend.due(2 * EVERY + 2)


def test_nothing_happened() -> None:
    sample = taken(Trend(), 5.0, Tally())
    assert sample == Sample(1, 5.0, 3, 12.5, 100.0, 2, 4, None, None, None, ())


def test_each_sample_is_of_its_own_time_only() -> None:
    trend, tally = Trend(), Tally()
    tally.first_token.observe(0.5)
    tally.prompt_tokens, tally.cached_tokens = 100, 25
    tally.step([step(0.2)])
    first = taken(trend, 5.0, tally)
    assert first.cached_share == 0.25
    assert first.step_seconds == (0.2,)
    assert first.first_token_seconds is not None
    tally.prompt_tokens, tally.cached_tokens = 200, 125
    tally.inter_token.observe(0.03, 10)
    tally.step([step(0.1), step(0.3)])
    tally.step([step(0.2), step(0.5)])
    second = taken(trend, 10.0, tally)
    assert (second.number, second.cached_share, second.first_token_seconds) == (2, 1.0, None)
    assert second.step_seconds == (pytest.approx(0.15), pytest.approx(0.4))
    median, late = second.inter_token_seconds or (0, 0)
    assert 0.02 < median < late <= 0.03
    third = taken(trend, 15.0, tally)
    assert (third.cached_share, third.inter_token_seconds) == (None, None)
    assert third.step_seconds == (None, None)


def test_fewer_ranks_than_before_leave_those_that_are_gone_without_a_value() -> None:
    trend, tally = Trend(), Tally()
    tally.step([step(0.1), step(0.1)])
    taken(trend, 5.0, tally)
    tally.step([step(0.3)])
    assert taken(trend, 10.0, tally).step_seconds == (pytest.approx(0.3), None)


def test_weights_are_read_at_a_mean_of_the_times_they_took() -> None:
    trend, tally = Trend(), Tally()
    tally.step([read(2e9), read(1e9)])
    assert taken(trend, 5.0, tally).read_bytes_per_second == pytest.approx((2e9, 1e9))
    tally.step([read(None), read(None)])
    assert taken(trend, 10.0, tally).read_bytes_per_second == (None, None)
    tally.step([read(3e9), read(None)])
    tally.step([read(1e9), read(None)])
    speeds = taken(trend, 15.0, tally).read_bytes_per_second
    assert speeds == (pytest.approx(1.5e9), None)


def test_an_hour_is_kept_and_asked_for_by_number() -> None:
    trend, tally = Trend(), Tally()
    assert trend.since(0) == []
    for number in range(KEPT + 10):
        trend.take(number * EVERY, LOAD, tally)
    assert len(trend.samples) == KEPT
    assert [sample.number for sample in trend.since(0)] == list(range(11, KEPT + 11))
    assert [sample.number for sample in trend.since(KEPT + 8)] == [KEPT + 9, KEPT + 10]
    assert trend.since(KEPT + 10) == []
    assert trend.since(10**9) == []


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ([(1.0, 0), (2.0, 10), (INF, 10)], 0.5, 1.5),
        ([(1.0, 10), (2.0, 10), (INF, 10)], 0.5, 0.5),
        ([(1.0, 5), (2.0, 10), (INF, 10)], 0.95, 1.9),
        ([(1.0, 0), (2.0, 0), (INF, 4)], 0.5, 2.0),
        ([(1.0, 2), (2.0, 2), (INF, 4)], 0.5, 1.0),
    ],
)
def test_quantiles(buckets: list[tuple[float, int]], share: float, value: float) -> None:
    assert quantile(buckets, share) == pytest.approx(value)
