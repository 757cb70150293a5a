"""Clocks."""

from __future__ import annotations

import pytest

from cluster.core.clock import Clock, ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    assert clock.now() == clock.now() == 5.0
    clock.advance(0.0)
    clock.advance(2.5)
    assert clock.now() == 7.5


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="can't go back"):
        clock.advance(-0.1)
    assert clock.now() == 0.0


def test_the_system_clock_never_goes_back() -> None:
    clock: Clock = SystemClock()
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)
