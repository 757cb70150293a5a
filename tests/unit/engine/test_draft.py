"""Drafts: found where text repeats, right or left alone, the same however the ids came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.draft import BEGIN, Drafter


def active(prompt: list[int], answer: list[int], most: int = 8) -> Drafter:
    drafter = Drafter(prompt, most)
    drafter.note(answer, 0)
    return drafter


def test_a_repeated_text_is_drafted_from_where_it_stood_before() -> None:
    text = list(range(100, 120))
    drafter = active([1, 2, *text, 3, 4, *text[:3]], text[3:6])
    assert drafter.active
    assert drafter.draft(8) == tuple(text[6:10])
    assert drafter.draft(2) == tuple(text[6:8])


def test_nothing_is_drafted_before_three_ids_in_a_row_were_guessed_right() -> None:
    text = list(range(100, 120))
    drafter = Drafter([*text, 3, 4, *text[:3]], 8)
    for token in text[3:5]:
        drafter.note([token], 0)
        assert drafter.draft(8) == ()
    drafter.note([text[5]], 0)
    assert drafter.draft(8) == tuple(text[6:10])


def test_drafts_grow_while_they_are_right_and_end_when_they_are_not() -> None:
    text = list(range(100, 160))
    drafter = active([*text, 3, 4, *text[:3]], text[3:6])
    assert drafter.draft(8) == tuple(text[6:10])
    drafter.note(text[6:11], 4)
    assert drafter.draft(8) == tuple(text[11:19])
    drafter.note([text[11], 7], 8)
    for token in (8, 9, 10, 11):
        drafter.note([token], 0)
    assert not drafter.active
    assert drafter.draft(8) == ()


def test_the_latest_occurrence_is_copied() -> None:
    drafter = active([1, 2, 3, 50, 9, 1, 2, 3, 60, 61, 62, 63, 64, 9, 1, 2, 3], [60, 61, 62])
    assert drafter.draft(2) == (63, 64)


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    drafter = active([9], [1, 2, 1, 2, 1, 2, 1, 2, 1, 2])
    assert drafter.draft(8) == (1, 2, 1, 2)


def test_text_without_repetition_is_never_drafted() -> None:
    drafter = active(list(range(1000)), list(range(1000, 1200)))
    assert drafter.draft(8) == ()


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=20),
)
def test_a_draft_is_a_function_of_the_ids_and_how_they_were_drafted(
    prompt: list[int], answer: list[list[int]]
) -> None:
    """And every draft continues a place where the last three ids have stood before."""
    one, other = Drafter(prompt, 8), Drafter(prompt, 8)
    ids = list(prompt)
    for part in answer:
        one.note(part, 0)
        for token in part:
            other.note([token], 0)
        ids += part
        assert one.draft(8) == other.draft(8)
        if draft := one.draft(8):
            together = (*ids, *draft)
            gram = together[len(ids) - 3 : len(ids) + 1]
            assert any(tuple(ids[i : i + 4]) == gram for i in range(len(ids) - 3))


def test_the_rate_that_begins_drafts_needs_three_of_three() -> None:
    rate = 0.0
    for guesses in range(1, 4):
        rate += 0.25 * (1 - rate)
        assert (rate >= BEGIN) == (guesses == 3)
