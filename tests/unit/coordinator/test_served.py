"""One model with two groups, whose epochs begin and end as the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import Recipe
from cluster.coordinator.served import Offer, Served
from cluster.core.config import Limits, Pacing
from cluster.core.errors import EngineCrashed, QueueFull
from cluster.core.ids import Epoch
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from cluster.core.view import ServedModel
from tests.integration.fakes import FakeTokenizer

LIMITS = Limits(sequences=2, queue=3)
MODEL = ServedModel("m", 4096, 0, demo=False)
NO_FORMS: Any = None


class Clock:
    def now(self) -> float:
        return 1.0


def served() -> Served:
    text: Any = FakeTokenizer()
    groups = [
        Coordinator(MODEL, text, limits=LIMITS, pacing=Pacing(), clock=Clock()) for _ in range(2)
    ]
    offer = Offer(MODEL, Path(), Recipe("m", "", 1), NO_FORMS, 0)
    made = Served(offer, groups, lambda _: None, lambda: None)
    for place in range(2):
        begin(made, place)
    return made


def begin(made: Served, place: int) -> None:
    made.groups[place].begin(Epoch(1), trimmable=True)
    made.move()
    plan(made)


def end(made: Served, place: int) -> None:
    made.groups[place].end(EngineCrashed("killed"))
    made.groups[place].settled = True
    made.move()


def plan(made: Served) -> None:
    for group in made.groups:
        if group.scheduler is not None:
            group.next()


def held(made: Served) -> list[int]:
    return [len(group.live.journal) for group in made.groups]


def submit(made: Served, prompt: str = "hello") -> None:
    made.submit(Order(tuple(map(ord, prompt)), Sampling(temperature=0.0), 8))
    plan(made)


def fill(made: Served) -> int:
    """Submit until a request is refused; how many were taken."""
    for count in range(100):
        try:
            submit(made)
        except QueueFull:
            return count
    raise AssertionError("nothing is ever refused")


def test_all_groups_are_full_before_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = served()
    first = made.groups[0].scheduler
    assert first is not None
    # All that is asked for was computed in the first group.
    monkeypatch.setattr(first, "holds", lambda scope, prompt: 1000)
    assert fill(made) == 10
    assert held(made) == [5, 5]
    assert all(group.full for group in made.groups)


def test_groups_that_fail_in_turn_fill_no_journal_without_end() -> None:
    made = served()
    fill(made)
    for lost in (0, 1) * 3:
        end(made, lost)
        assert not held(made)[lost]
        begin(made, lost)
        fill(made)
        assert sum(held(made)) <= 10
    assert sum(group.tally.refusals.get("QueueFull", 0) for group in made.groups) > 5


def test_a_group_between_epochs_takes_as_many_as_one_that_runs() -> None:
    made = served()
    for place in range(2):
        end(made, place)
    assert fill(made) == 10
    assert held(made) == [5, 5]
