"""Which parked slot spares the most of a prompt."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.ids import Slot
from cluster.scheduler.prefix import PrefixIndex, common_prefix

S0, S1, S2 = Slot(0), Slot(1), Slot(2)


def packed(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()


ids = st.lists(st.integers(0, 2), max_size=40)


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(shared=ids, one=ids, other=ids)
def test_common_prefix_equals_the_plain_loop(
    shared: list[int], one: list[int], other: list[int]
) -> None:
    left, right = shared + one, shared + other
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(packed(left), packed(right)) == expected


def test_common_prefix_compares_ids_not_bytes() -> None:
    assert common_prefix(packed([1, 0x01020304]), packed([1, 0x09020304])) == 1
    assert common_prefix(packed([1, 0x01020304]), packed([1, 0x01020309])) == 1


def test_the_longest_common_start_wins() -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2, 9, 9, 9, 9])
    index.add(S1, "", [1, 2, 3, 4, 9])
    index.add(S2, "", [1, 2, 3])
    match = index.find("", [1, 2, 3, 4, 5, 6])
    assert match is not None
    assert (match.parked.slot, match.keep, match.whole) == (S1, 4, False)


def test_a_whole_prefix_is_told_from_a_part() -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2, 3])
    whole = index.find("", [1, 2, 3, 4])
    part = index.find("", [1, 2, 4, 4])
    assert whole is not None
    assert part is not None
    assert whole.whole
    assert not part.whole


@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2]])
def test_one_token_is_left_to_compute(prompt: list[int]) -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2, 3])
    match = index.find("", prompt)
    assert match is not None
    assert match.keep == len(prompt) - 1


@pytest.mark.parametrize("prompt", [[9], [1], [], [9, 1, 2]])
def test_nothing_in_common_is_no_match(prompt: list[int]) -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2, 3])
    assert index.find("", prompt) is None


def test_scopes_do_not_see_each_other() -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "one", [1, 2, 3])
    assert index.find("other", [1, 2, 3, 4]) is None
    assert index.find("", [1, 2, 3, 4]) is None
    assert index.find("one", [1, 2, 3, 4]) is not None


@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2, 9, 9], [1, 2]])
def test_an_untrimmable_prefix_is_taken_whole_or_not_at_all(prompt: list[int]) -> None:
    index = PrefixIndex(trimmable=False)
    index.add(S0, "", [1, 2, 3])
    assert index.find("", prompt) is None


def test_an_untrimmable_shorter_prefix_beats_a_longer_one_that_differs() -> None:
    index = PrefixIndex(trimmable=False)
    index.add(S0, "", [1, 2])
    index.add(S1, "", [1, 2, 3, 4, 9])
    match = index.find("", [1, 2, 3, 4, 5])
    assert match is not None
    assert (match.parked.slot, match.keep, match.whole) == (S0, 2, True)


def test_the_least_recently_used_is_the_oldest() -> None:
    index = PrefixIndex(trimmable=True)
    for slot in (S0, S1, S2):
        index.add(slot, "", [slot + 1])
    assert index.oldest(frozenset()) == S0
    index.touch(S0)
    assert index.oldest(frozenset()) == S1
    assert index.oldest({S1, S2}) == S0
    assert index.oldest({S0, S1, S2}) is None


def test_finding_alone_does_not_make_it_younger() -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2])
    index.add(S1, "", [3, 4])
    index.find("", [1, 2, 3])
    assert index.oldest(frozenset()) == S0


def test_positions_are_counted() -> None:
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", [1, 2, 3])
    index.add(S1, "", [1, 2])
    assert (len(index), index.tokens) == (2, 5)
    assert index.held({S0, S2}) == 3
    assert index.remove(S0).length == 3
    assert (len(index), index.tokens) == (1, 2)
    with pytest.raises(KeyError):
        index.remove(S0)
    assert (len(index), index.tokens) == (1, 2)


def test_long_prefixes_are_compared_quickly() -> None:
    """Not a stopwatch: 200 comparisons of 100k ids would take minutes one id at a time."""
    long = list(range(100_000))
    index = PrefixIndex(trimmable=True)
    index.add(S0, "", long)
    wanted = packed([*long[:-2], 7])
    held = packed(long)
    assert all(common_prefix(held, wanted) == 99_998 for _ in range(200))
