from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster.coordinator.coordinator import Coordinator
from cluster.core.clock import ManualClock
from cluster.core.errors import EngineCrashed, LaunchFailed, StepOverdue
from cluster.core.ids import Epoch
from tests.integration.fakes import make_coordinator


def begun(coordinator: Coordinator, number: int) -> None:
    coordinator.begin(Epoch(number), trimmable=True)
    group: Any = SimpleNamespace(epoch=number, engines=(None, None), backend="ring")
    coordinator.group = group


def test_how_long_the_recovery_took_is_told_once_it_is_over() -> None:
    clock = ManualClock()
    coordinator = make_coordinator(clock=clock)
    begun(coordinator, 1)
    clock.advance(60)
    coordinator.end(StepOverdue("late"))
    (past,) = coordinator.history
    assert (past.number, past.world, past.seconds, past.reason) == (1, 2, 60, "late")
    assert past.recovery_seconds is None
    clock.advance(7.5)
    begun(coordinator, 2)
    (past,) = coordinator.history
    assert past.recovery_seconds == 7.5
    clock.advance(1)
    coordinator.end(StepOverdue("late again"))
    clock.advance(2)
    begun(coordinator, 3)
    assert [each.recovery_seconds for each in coordinator.history] == [7.5, 2]


def test_an_epoch_that_was_cancelled_is_explained_and_counted_once() -> None:
    coordinator = make_coordinator(clock=ManualClock())
    begun(coordinator, 1)
    coordinator.end(None)
    assert coordinator.history[-1].reason == ""
    coordinator.explain(EngineCrashed("rank 1 was killed"))
    coordinator.explain(LaunchFailed("no port"))  # the try after it
    assert [each.reason for each in coordinator.history] == ["rank 1 was killed"]
    assert coordinator.tally.epochs_ended["EngineCrashed"] == 1
    assert "LaunchFailed" not in coordinator.tally.epochs_ended


def test_one_that_ended_with_a_reason_keeps_it() -> None:
    coordinator = make_coordinator(clock=ManualClock())
    begun(coordinator, 1)
    coordinator.end(StepOverdue("late"))
    coordinator.explain(StepOverdue("late"))
    assert coordinator.tally.epochs_ended["StepOverdue"] == 1


def test_samples_are_taken_while_it_is_looked_at() -> None:
    clock = ManualClock(1000.0)
    coordinator = make_coordinator(clock=clock)
    for _ in range(5):
        clock.advance(2.5)
        coordinator.look()
    now, samples = coordinator.samples(0)
    assert (now, [(each.number, each.at) for each in samples]) == (12.5, [(1, 5.0), (2, 10.0)])
    begun(coordinator, 4)
    clock.advance(5)
    coordinator.look()
    assert [each.epoch for each in coordinator.samples(2)[1]] == [4]
