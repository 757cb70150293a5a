from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.caller import ANYONE, Caller
from api.quota import Quota
from cluster.core.clock import ManualClock
from cluster.core.errors import TooManyRequests


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def quota(clock: ManualClock) -> Quota:
    return Quota(clock)


def caller(name: str = "a", **limits: int) -> Caller:
    return Caller(name, name, name, **limits)


def test_without_limits_nothing_is_counted(quota: Quota) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(quota.enter(ANYONE))
        assert len(quota) == 0


def test_so_many_at_the_same_time(quota: Quota) -> None:
    two = caller(concurrency=2)
    with quota.enter(two):
        with quota.enter(two):
            with pytest.raises(TooManyRequests, match="a has 2 requests under way") as refused:
                quota.enter(two).__enter__()
            assert refused.value.retry_after == 1
            with quota.enter(caller("b", concurrency=1)):  # each key for itself
                assert len(quota) == 2
        with quota.enter(two):
            pass
    assert len(quota) == 0


def test_an_error_in_the_block_is_an_end_too(quota: Quota) -> None:
    with pytest.raises(ZeroDivisionError), quota.enter(caller(concurrency=1)):
        raise ZeroDivisionError
    assert len(quota) == 0


def test_so_many_in_a_minute(quota: Quota, clock: ManualClock) -> None:
    three = caller(per_minute=3)
    for _ in range(3):
        with quota.enter(three):
            pass
    with pytest.raises(TooManyRequests, match="3 requests a minute: try again in 20.0 s") as no:
        quota.enter(three).__enter__()
    assert no.value.retry_after == pytest.approx(20)
    clock.advance(no.value.retry_after)
    with quota.enter(three):  # what was refused did not count
        pass
    with pytest.raises(TooManyRequests):
        quota.enter(three).__enter__()
    clock.advance(60)
    assert len(quota) == 0


def test_what_is_refused_for_the_one_does_not_count_for_the_other(
    quota: Quota, clock: ManualClock
) -> None:
    both = caller(concurrency=1, per_minute=2)
    with quota.enter(both):
        for _ in range(5):
            with pytest.raises(TooManyRequests, match="under way"):
                quota.enter(both).__enter__()
    with quota.enter(both):
        pass
    with pytest.raises(TooManyRequests, match="a minute"):
        quota.enter(both).__enter__()
    clock.advance(30)
    with quota.enter(both):
        pass


def test_limits_that_change_while_a_request_runs(quota: Quota) -> None:
    with quota.enter(caller(concurrency=1)):
        with quota.enter(caller()):
            pass
        with pytest.raises(TooManyRequests):
            quota.enter(caller(concurrency=1)).__enter__()
    assert len(quota) == 0


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_minute_sees_more_than_twice_the_rate(pauses: list[float], rate: int) -> None:
    """A full bucket, and what flows in meanwhile."""
    clock = ManualClock()
    quota = Quota(clock)
    times: list[float] = []
    for pause in pauses:
        clock.advance(pause)
        with suppress(TooManyRequests), quota.enter(caller(per_minute=rate)):
            times.append(clock.now())
    for begin in times:
        assert sum(begin <= at < begin + 60 for at in times) <= 2 * rate
