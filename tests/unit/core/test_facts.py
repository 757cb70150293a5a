from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.facts import clock_ahead

SECONDS = st.floats(0, 60)


@given(st.floats(-1e6, 1e6), SECONDS, SECONDS, SECONDS)
def test_the_truth_is_within_what_is_said(
    truth: float, there: float, working: float, back: float
) -> None:
    """However unequal the two ways are, and however long the answer takes."""
    received = 1e6 + there + truth
    answered = received + working
    arrived = 1e6 + there + working + back
    ahead, within = clock_ahead(1e6, received, answered, arrived)
    assert within == pytest.approx((there + back) / 2, abs=1e-6)
    assert abs(ahead - truth) <= within + 1e-6


def test_ways_of_equal_length_are_no_error() -> None:
    ahead, within = clock_ahead(100.0, 130.25, 137.25, 107.5)
    assert (ahead, within) == (30.0, 0.25)


def test_a_clock_that_was_set_meanwhile_is_no_negative_distance() -> None:
    assert clock_ahead(100.0, 100.0, 500.0, 101.0)[1] == 0.0
