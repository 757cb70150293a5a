"""Where caches that can't be trimmed are copied, and what the next turn has of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster.core.config import Limits
from cluster.scheduler.marks import APART, snapshot_points
from tests.unit.scheduler.harness import Harness
from tests.unit.scheduler.reference import Cost

END = 999
SLOW = Cost(token=1e-3, attention=1e-8)


def message(length: int, stem: int = 1) -> tuple[int, ...]:
    """So many ids, the last one an end."""
    return (*((stem * 7919 + n * n) % 997 for n in range(length - 1)), END)


@pytest.mark.parametrize(
    ("feed", "points"),
    [
        (message(500)[:-1], [499]),
        (message(10)[:-1], [9]),
        (message(10), [10]),
        (message(100) + (7,) * 100, [100, 200]),
        (message(100) + (7,) * 10, [100]),
        (message(10) + (7,) * 100, [110]),
        (message(100) + message(100) + message(100) + message(100), [100, 200, 300, 400]),
        (message(100) * 6, [100, 400, 500, 600]),
        (message(100) * 6 + (7, 8), [100, 500, 600]),
        (message(100) + message(20) + message(200) + (7,) * 90, [120, 320, 410]),
        (message(100) + message(150) + message(20) + (7,) * 90, [100, 270, 360]),
    ],
)
def test_points_are_ends_of_messages_and_of_the_prompt(
    feed: tuple[int, ...], points: list[int]
) -> None:
    assert snapshot_points(feed, {END, 1001}) == points


def test_points_keep_apart() -> None:
    for length in range(3, 40):
        points = snapshot_points(message(length) * 30, {END})
        gaps = [b - a for a, b in pairwise(points)]
        assert min(gaps, default=APART) >= APART


def turns(limits: Limits | None = None) -> Harness:
    return Harness(trimmable=False, cost=SLOW, end_ids=[END], limits=limits)


@pytest.mark.parametrize("parts", [[], [END, 5, 6]])
def test_a_follow_up_goes_on_from_the_end_of_the_turn_before(parts: list[int]) -> None:
    """The answer was cut by an end id, with overrun: only the snapshot is left."""
    harness = turns()
    prompt = [*message(300), *message(400, 2), *message(90, 3)[:-1], *parts]
    first = harness.submit("a", prompt, 50)
    harness.run(until=lambda: first.tokens > 20)
    while harness.plan():
        pass
    harness.end("a")
    harness.run()
    computed = harness.engine.prefilled_tokens
    assert computed == len(prompt)
    second = harness.submit("b", [*prompt, *first.ids, END, *message(30, 4)], 5)
    harness.settle()
    end = 790 if parts else 789
    assert second.sequence.cached == end
    assert harness.engine.prefilled_tokens == computed + len(second.request.prompt) - end


def test_the_same_prompt_again_goes_on_from_its_last_message() -> None:
    harness = turns()
    prompt = [*message(300), *message(400, 2), 5, 6]
    harness.submit("a", prompt, 5)
    harness.run()
    again = harness.submit("b", prompt, 5)
    harness.settle()
    assert again.sequence.cached == 700


def test_another_conversation_has_the_first_message_and_so_has_the_next() -> None:
    harness = turns()
    for name, stem in (("a", 2), ("b", 3), ("c", 4)):
        tracked = harness.submit(name, [*message(300), *message(400, stem), 5], 5)
        harness.run()
        assert tracked.sequence.cached == (0 if name == "a" else 300)
    harness.settle()


def test_end_ids_mark_messages_even_when_they_end_no_answer() -> None:
    harness = turns()
    first = harness.submit("a", [*message(300), *message(100, 2)], 5, end_ids=())
    assert not first.request.end_ids
    harness.run()
    assert [fork.keep for step in harness.steps for fork in step.fork] == [300, 400]
    harness.settle()


def test_the_end_ids_of_a_request_count_as_well() -> None:
    harness = Harness(trimmable=False, cost=SLOW)
    harness.submit("a", [*message(300), *message(100, 2)], 5, end_ids=[END])
    harness.run()
    assert [fork.keep for step in harness.steps for fork in step.fork] == [300, 400]
    harness.settle()


def test_one_that_ends_with_its_prompt_is_parked_not_copied() -> None:
    harness = turns()
    harness.submit("a", message(300), 1)
    harness.settle()
    assert not any(step.fork for step in harness.steps)
    assert harness.scheduler.parked_slots == 1


def test_a_cancelled_prefill_is_parked_where_it_is() -> None:
    harness = turns()
    harness.submit("a", message(3000), 5)
    harness.run(until=lambda: harness.engine.prefilled_tokens > 1000)
    harness.end("a")
    harness.run()
    computed = harness.engine.prefilled_tokens
    again = harness.submit("b", message(3000), 5)
    harness.settle()
    assert again.sequence.cached == computed < 3000


def test_caches_that_can_be_trimmed_are_never_copied_for_later() -> None:
    harness = Harness(cost=SLOW, end_ids=[END])
    harness.submit("a", message(100) * 4, 5)
    harness.settle()
    assert not any(step.fork for step in harness.steps)
