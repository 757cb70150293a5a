from __future__ import annotations

from cluster.core.channel import ChannelTable, TokenChannel
from cluster.core.config import Limits, Pacing
from cluster.core.ids import Epoch, RequestId
from cluster.core.request import Request
from cluster.scheduler.route import LOAD_TOKENS, Seat, route
from cluster.scheduler.scheduler import Scheduler


def test_where_least_is_left_to_compute() -> None:
    assert route(500, [Seat(0, 0), Seat(400, 0)]) == 1
    assert route(500, [Seat(480, 3), Seat(0, 0)]) == 0  # it is worth waiting for
    assert route(500, [Seat(100, 3), Seat(0, 0)]) == 1  # and this is not


def test_what_all_prompts_begin_with_keeps_no_group_busy() -> None:
    """A chat template's start is in the first group; others get theirs all the same."""
    requests = [0, 0]
    for _ in range(20):
        place = route(60, [Seat(30, requests[0]), Seat(0, requests[1])])
        requests[place] += 1
    assert abs(requests[0] - requests[1]) <= 1


def test_equal_ones() -> None:
    assert route(10, [Seat(0, 2), Seat(0, 2), Seat(0, 1)]) == 2
    assert route(10, [Seat(0, 0), Seat(0, 0)]) == 0
    assert route(1000, [Seat(LOAD_TOKENS, 1), Seat(0, 0)]) == 1


def test_one_that_is_full_only_if_all_are() -> None:
    assert route(500, [Seat(480, 3, full=True), Seat(0, 7)]) == 1
    assert route(500, [Seat(480, 3, full=True), Seat(0, 7, full=True)]) == 0


def test_asking_what_is_held_changes_nothing() -> None:
    scheduler = Scheduler(Epoch(1), Limits(), Pacing(), trimmable=True)
    assert scheduler.holds("", tuple(range(100))) == 0
    request = Request(RequestId("r"), tuple(range(100)), 4)
    scheduler.submit(TokenChannel(request.id, ChannelTable()), request, 0.0)
    before = scheduler.next_step(0.0)
    assert before is not None and scheduler.holds("", request.prompt) == 0  # it is not parked
    assert scheduler.last_seq == 1
