from __future__ import annotations

from cluster.core.clock import ManualClock
from cluster.core.timeline import FIRST, LATEST, Event, Kept, Timeline, Track, timed


def test_the_first_and_the_latest_are_kept() -> None:
    kept: Kept[int] = Kept()
    for number in range(FIRST + LATEST + 7):
        kept.add(number)
    assert list(kept) == [*range(FIRST), *range(FIRST + 7, FIRST + LATEST + 7)]
    assert kept.left_out == 7


def test_a_track_that_is_full_costs_the_others_nothing() -> None:
    timeline = Timeline(ManualClock())
    timeline.add(Track.QUEUE, "queued", 0.0)
    for _ in range(FIRST + LATEST + 1):
        timeline.add(Track.SSE, "write", 0.0)
    assert timeline.events[0].name == "queued"
    assert (len(timeline.events), timeline.left_out) == (1 + FIRST + LATEST, 1)


def test_blocks_are_timed_however_they_end() -> None:
    clock = ManualClock(5.0)
    timeline = Timeline(clock)
    try:
        with timed(timeline, Track.HTTP, "prepare", tokens=3):
            clock.advance(2.0)
            raise KeyError
    except KeyError:
        pass
    assert timeline.events == [Event(Track.HTTP, "prepare", 5.0, 7.0, {"tokens": 3})]
    with timed(None, Track.HTTP, "prepare"):
        pass
