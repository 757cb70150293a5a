from __future__ import annotations

from cluster.coordinator.straggler import LATEST, Straggler
from cluster.core.ids import Epoch, Seq
from cluster.core.plan import StepResult


def said(*speeds: float | None) -> list[StepResult]:
    """Each rank's result of one step."""
    return [StepResult(Epoch(1), Seq(1), digest=0, read_bytes_per_second=speed) for speed in speeds]


def test_nothing_was_measured() -> None:
    straggler = Straggler()
    assert straggler.note(said(None, None)) is None
    assert straggler.read_bytes_per_second == {}
    assert straggler.slow == frozenset()


def test_the_median_of_the_latest_counts() -> None:
    straggler = Straggler()
    for speed in (9.0, 9.0, 9.0, 9.0, 9.0, 4.0, 3.0, 1.0, 2.0, 5.0):
        straggler.note(said(speed, None))
    assert straggler.read_bytes_per_second == {0: 3.0}


def test_slow_is_beside_the_fastest() -> None:
    straggler = Straggler()
    straggler.note(said(100.0, 81.0, 79.0, 50.0))
    assert straggler.slow == {2, 3}
    alone = Straggler()
    alone.note(said(1.0))
    assert alone.slow == frozenset()


def test_a_warning_is_worth_it_once_and_not_for_a_moment() -> None:
    straggler = Straggler()
    assert [straggler.note(said(30.0, 10.0)) for _ in range(LATEST - 1)] == [None] * 4
    assert straggler.note(said(None, None)) is None
    assert straggler.note(said(30.0, 10.0)) == (1, 3.0)
    assert straggler.note(said(30.0, 10.0)) is None
    disturbed = Straggler()
    for speed in (30.0, 10.0, 30.0, 10.0, 30.0, 30.0):
        assert disturbed.note(said(30.0, speed)) is None


def test_machines_that_are_unequal_by_design_are_no_surprise() -> None:
    straggler = Straggler()
    for _ in range(LATEST):
        assert straggler.note(said(800.0, 400.0, 400.0)) is None
    assert straggler.slow == {1, 2}
