from __future__ import annotations

import random

import pytest

from cluster.core.rank_clock import DRIFT, RankClock


def test_equal_ways_give_the_offset_itself() -> None:
    known = RankClock().observe(10.0, 510.2, 511.2, 11.4)
    assert known.ahead == pytest.approx(500.0)
    assert known.error == pytest.approx(0.2 + DRIFT * 1.4)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_off_by_more_than_it_says(seed: int) -> None:
    chance = random.Random(seed)
    clock, now = RankClock(), 100.0
    ahead, speed = chance.uniform(-1e6, 1e6), 1 + chance.uniform(-DRIFT, DRIFT)
    begun = now

    def theirs(ours: float) -> float:
        return begun + ahead + (ours - begun) * speed

    for _ in range(200):
        sent = now
        received = sent + chance.expovariate(1000)
        answered = received + chance.uniform(0, 0.3)
        now = answered + chance.expovariate(100)
        known = clock.observe(sent, theirs(received), theirs(answered), now)
        assert abs(theirs(now) - now - known.ahead) <= known.error


def test_the_tightest_round_trip_counts_until_it_is_too_old() -> None:
    clock = RankClock()
    assert clock.observe(0.0, 5.001, 5.001, 0.002).error == pytest.approx(0.001, rel=1e-3)
    later = clock.observe(1.0, 6.5, 6.5, 1.6)
    assert (later.ahead, later.error) == pytest.approx((5.0, 0.001 + DRIFT * 1.6))
    much_later = clock.observe(100.0, 105.002, 105.002, 100.004)
    assert much_later.error == pytest.approx(0.002, rel=1e-3)
