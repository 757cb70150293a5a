"""When there is no room for all to go on, the youngest gives way, and loses nothing by it."""

from __future__ import annotations

from cluster.core.config import Limits
from cluster.core.request import Finish
from tests.unit.scheduler.harness import Harness

TIGHT = Limits(kv_tokens=60, kv_ahead=4, parked=2)


def test_the_youngest_gives_way_and_both_get_their_whole_text() -> None:
    harness = Harness(limits=TIGHT)
    old = harness.submit("old", range(10), 40)
    young = harness.submit("young", range(50, 60), 40)
    harness.settle()  # checks the texts against those of lone runs
    assert old.finish is young.finish is Finish.LENGTH
    assert (old.interruptions, young.interruptions) == (0, 1)
    assert young.sequence.cached == 0  # usage speaks of the prompt as it came
    assert max(old.times) < max(young.times)
    assert young.sequence.begun == 0.0  # the second time, it was not waiting to begin


def test_a_request_that_gave_way_can_be_cancelled_while_it_waits() -> None:
    harness = Harness(limits=TIGHT)
    harness.submit("old", range(10), 45)
    young = harness.submit("young", range(50, 60), 40)
    while not young.interruptions:
        assert harness.plan() or harness.answer()
    harness.end("young")
    harness.settle()
    assert young.finish is Finish.CANCELLED


def test_many_that_ask_for_much_and_take_little_run_together() -> None:
    """All could not be admitted if all that they may need were set aside at once."""
    harness = Harness(limits=Limits(kv_tokens=1000, kv_ahead=50, sequences=8))
    for number in range(8):
        harness.submit(f"r{number}", range(number, number + 10), 900)
    harness.plan()
    assert harness.scheduler.live_slots == 8
    for number in range(8):
        harness.end(f"r{number}")
    harness.settle()
