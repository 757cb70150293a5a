"""Whether a draft model pays: left alone where it is wrong, asked for more where it is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.config import DRAFT_WINDOW
from cluster.engine.acceptance import BEGIN, END, FIRST, LEAST, PAUSE, WEIGHT, Acceptance


def wrong(acceptance: Acceptance) -> int:
    """Rounds with nothing right until it is no longer active."""
    rounds = 0
    while acceptance.active:
        acceptance.note(1, acceptance.count(12))
        rounds += 1
    return rounds


def pause(acceptance: Acceptance) -> int:
    """Ids that come without drafts until it is active again."""
    ids = 0
    while not acceptance.active:
        assert acceptance.count(12) == 0
        acceptance.note(1, 0)
        ids += 1
    return ids


def test_drafts_grow_while_they_are_right() -> None:
    acceptance = Acceptance(100, 12)
    counts = []
    for _ in range(5):
        counts.append(acceptance.count(15))
        acceptance.note(1 + counts[-1], counts[-1])
    assert counts == [FIRST, 4, 8, 12, 12]
    assert acceptance.count(3) == 3


def test_a_draft_is_as_long_as_the_last_one_was_right_and_one_more() -> None:
    acceptance = Acceptance(100, 12)
    for _ in range(3):
        acceptance.note(1 + acceptance.count(12), acceptance.count(12))
    acceptance.note(4, 12)
    assert acceptance.count(12) == 4
    acceptance.note(1, 4)
    assert acceptance.count(12) == 1


def test_what_is_always_wrong_is_tried_ever_more_rarely() -> None:
    acceptance = Acceptance(100, 12)
    pauses = []
    for _ in range(4):
        assert wrong(acceptance) == 3
        pauses.append(pause(acceptance))
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE]


def test_after_drafts_that_were_worth_it_the_next_try_comes_soon() -> None:
    acceptance = Acceptance(100, 12)
    for _ in range(3):
        wrong(acceptance)
        last = pause(acceptance)
    for _ in range(last):
        acceptance.note(1 + acceptance.count(12), acceptance.count(12))
    wrong(acceptance)
    assert pause(acceptance) == PAUSE


def test_ids_behind_a_wrong_one_are_not_judged() -> None:
    """Of twelve with the first wrong, one is known to be wrong."""
    one, other = Acceptance(100, 12), Acceptance(100, 12)
    for _ in range(2):
        one.note(1, 12)
        other.note(1, 1)
    assert one.active
    assert other.active
    assert BEGIN * (1 - WEIGHT) ** 2 >= END > BEGIN * (1 - WEIGHT) ** 3


def test_right_half_of_the_time_goes_on() -> None:
    acceptance = Acceptance(100, 12)
    for i in range(1000):
        count = acceptance.count(12)
        acceptance.note(1 + count if i % 2 else 1, count)
    assert acceptance.active


@pytest.mark.parametrize("length", range(1, 5))
def test_nothing_is_drafted_behind_fewer_ids_than_are_fed_together(length: int) -> None:
    acceptance = Acceptance(length, 8)
    assert acceptance.wanted == (length >= LEAST)
    assert bool(acceptance.count(8)) == (length >= LEAST)


@given(
    st.integers(LEAST, 3000),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans()), max_size=300),
)
def test_the_window(length: int, rounds: list[tuple[int, int, bool]]) -> None:
    """It ends at the latest id, never holds more than twice its size, and says that ids were read
    only when they were: up to the last two of the latest draft's sequence."""
    acceptance = Acceptance(length, 12)
    read: tuple[int, int] | None = None
    for drafted, right, asked in rounds:
        start, keep = acceptance.window()
        assert LEAST <= length - start <= 2 * DRAFT_WINDOW
        assert length - start - keep <= DRAFT_WINDOW + 2
        assert start == 0 or length - start >= DRAFT_WINDOW
        if keep:
            assert read is not None
            assert (start, start + keep) == (read[0], read[1] - 2)
        assert acceptance.behind == (read is None or read[1] != length or keep == 0)
        count = min(drafted, acceptance.count(12)) if asked else 0
        ids = 1 + min(right, count)
        acceptance.note(ids, count)
        length += ids
        if count:
            read = start, length
