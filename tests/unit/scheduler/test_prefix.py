"""Which parked slot spares the most of a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.ids import Slot
from cluster.scheduler.prefix import HALF_LIFE, Match, PrefixIndex, common_prefix, pack, unpack

S0, S1, S2 = Slot(0), Slot(1), Slot(2)


def index_of(*, trimmable: bool) -> PrefixIndex[Slot]:
    return PrefixIndex(trimmable=trimmable)


def add(index: PrefixIndex[Slot], slot: Slot, scope: str, ids: list[int]) -> None:
    index.add(slot, scope, pack(ids), max(1, len(ids)))


def find(index: PrefixIndex[Slot], scope: str, prompt: list[int]) -> Match[Slot] | None:
    return index.find(scope, pack(prompt[:-1]))


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
    assert common_prefix(pack(left), pack(right)) == expected


def test_common_prefix_compares_ids_not_bytes() -> None:
    assert common_prefix(pack([1, 0x01020304]), pack([1, 0x09020304])) == 1
    assert common_prefix(pack([1, 0x01020304]), pack([1, 0x01020309])) == 1


def test_the_longest_common_start_wins() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 9, 9, 9, 9])
    add(index, S1, "", [1, 2, 3, 4, 9])
    add(index, S2, "", [1, 2, 3])
    match = find(index, "", [1, 2, 3, 4, 5, 6])
    assert match is not None
    assert (match.held.key, match.keep, match.whole) == (S1, 4, False)


def test_a_whole_prefix_is_told_from_a_part() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 3])
    whole = find(index, "", [1, 2, 3, 4])
    part = find(index, "", [1, 2, 4, 4])
    assert whole is not None
    assert part is not None
    assert whole.whole
    assert not part.whole


@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2]])
def test_one_token_is_left_to_compute(prompt: list[int]) -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 3])
    match = find(index, "", prompt)
    assert match is not None
    assert match.keep == len(prompt) - 1


@pytest.mark.parametrize("prompt", [[9], [1], [], [9, 1, 2]])
def test_nothing_in_common_is_no_match(prompt: list[int]) -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 3])
    assert find(index, "", prompt) is None


def test_scopes_do_not_see_each_other() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "one", [1, 2, 3])
    assert find(index, "other", [1, 2, 3, 4]) is None
    assert find(index, "", [1, 2, 3, 4]) is None
    assert find(index, "one", [1, 2, 3, 4]) is not None


@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2, 9, 9], [1, 2]])
def test_an_untrimmable_prefix_is_taken_whole_or_not_at_all(prompt: list[int]) -> None:
    index = index_of(trimmable=False)
    add(index, S0, "", [1, 2, 3])
    assert find(index, "", prompt) is None


def test_an_untrimmable_shorter_prefix_beats_a_longer_one_that_differs() -> None:
    index = index_of(trimmable=False)
    add(index, S0, "", [1, 2])
    add(index, S1, "", [1, 2, 3, 4, 9])
    match = find(index, "", [1, 2, 3, 4, 5])
    assert match is not None
    assert (match.held.key, match.keep, match.whole) == (S0, 2, True)


# What is worth least


def test_the_least_recently_used_is_worth_least() -> None:
    index = index_of(trimmable=True)
    for slot in (S0, S1, S2):
        add(index, slot, "", [slot + 1])
        index.clock += 1
    assert index.least() == S0
    index.touch(S0)
    assert index.least() == S1
    assert index.least({S1, S2}) == S0
    assert index.least({S0, S1, S2}) is None


def test_finding_alone_does_not_make_it_younger() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2])
    index.clock += 1
    add(index, S1, "", [3, 4])
    find(index, "", [1, 2, 3])
    assert index.least() == S0


def test_value_halves_with_each_half_life() -> None:
    index = index_of(trimmable=True)
    index.add(S0, "", pack(range(10)), 20)
    assert index.value(S0) == 0.5
    index.clock += HALF_LIFE
    assert index.value(S0) == 0.25


@pytest.mark.parametrize(("trimmable", "value"), [(True, 0.0), (False, 1.0)])
def test_a_start_of_another_is_worth_nothing_where_caches_can_be_trimmed(
    trimmable: bool, value: float
) -> None:
    index = index_of(trimmable=trimmable)
    add(index, S0, "", [1, 2, 3])
    add(index, S1, "", [1, 2, 3, 4])
    assert index.value(S0) == value
    assert index.value(S1) == 0.25
    index.remove(S0)
    assert index.value(S1) == 1.0


def test_only_what_no_other_holds_counts() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 3, 4])
    add(index, S1, "", [1, 2, 3, 5])
    assert (index.value(S0), index.value(S1)) == (0.25, 0.25)
    add(index, S2, "other", [1, 2, 3, 5])
    assert index.value(S2) == 1.0
    index.remove(S1)
    assert index.value(S0) == 1.0


def test_without_trimming_a_branch_holds_nothing_for_another() -> None:
    index = index_of(trimmable=False)
    add(index, S0, "", [1, 2, 3, 4])
    add(index, S1, "", [1, 2, 3, 5])
    assert (index.value(S0), index.value(S1)) == (1.0, 1.0)
    add(index, S2, "", [1, 2])
    assert (index.value(S0), index.value(S1)) == (0.5, 0.5)


def test_of_two_that_hold_the_same_either_is_worth_nothing() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2])
    add(index, S1, "", [1, 2])
    assert index.value(S0) == index.value(S1) == 0
    index.remove(S0)
    assert index.value(S1) == 1


def test_weights_are_counted() -> None:
    index = index_of(trimmable=True)
    add(index, S0, "", [1, 2, 3])
    add(index, S1, "", [1, 2])
    assert (len(index), index.weight) == (2, 5)
    assert index.starts(S0) == [S1]
    assert index.starts(S1) == []
    with pytest.raises(ValueError, match="is in the index"):
        add(index, S0, "", [1])
    assert index.remove(S0).length == 3
    assert (len(index), index.weight) == (1, 2)
    with pytest.raises(KeyError):
        index.remove(S0)
    index.remove(S1)
    assert not index._roots


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(
    held=st.lists(st.tuples(st.sampled_from(["", "x"]), ids), max_size=8),
    gone=st.sets(st.integers(0, 7)),
    prompt=ids,
    trimmable=st.booleans(),
)
def test_the_tree_equals_a_plain_list(
    held: list[tuple[str, list[int]]], gone: set[int], prompt: list[int], trimmable: bool
) -> None:
    index = index_of(trimmable=trimmable)
    for number, (scope, each) in enumerate(held):
        add(index, Slot(number), scope, each)
    for number in gone & set(range(len(held))):
        assert list(unpack(index.remove(Slot(number)).ids)) == held[number][1]
    left = {n: pack(h[1]) for n, h in enumerate(held) if h[0] == "" and n not in gone}
    common = {n: common_prefix(each, pack(prompt)) for n, each in left.items()}
    usable = [c for n, c in common.items() if trimmable or 4 * c == len(left[n])]
    match = index.find("", pack(prompt))
    assert (match.keep if match else 0) == max(usable, default=0)
    if match:
        assert common[match.held.key] == match.keep
        if match.keep in [c for n, c in common.items() if 4 * c == len(left[n])]:
            assert match.whole
    for number, packed in left.items():
        others = [other for n, other in left.items() if n != number]
        if trimmable:
            spared = len(packed) // 4 - max((common_prefix(packed, o) for o in others), default=0)
        else:
            starts = [len(o) // 4 for o in others if packed.startswith(o)]
            spared = len(packed) // 4 - max(starts, default=0)
        assert index.value(Slot(number)) == spared / max(1, len(packed) // 4)


def test_hundreds_of_long_prefixes_are_searched_quickly() -> None:
    """Not a stopwatch: comparing with each of them, or id by id, would take minutes."""
    index = index_of(trimmable=True)
    long = list(range(100_000))
    for number in range(300):
        add(index, Slot(number), "", [*long[: 99_000 + number], 7, number])
    wanted = pack(long)
    for _ in range(200):
        match = index.find("", wanted)
        assert match is not None
        assert match.keep == 99_299


def test_long_prefixes_are_compared_quickly() -> None:
    """Not a stopwatch: 200 comparisons of 100k ids would take minutes one id at a time."""
    long = list(range(100_000))
    index = index_of(trimmable=True)
    add(index, S0, "", long)
    wanted = pack([*long[:-2], 7])
    held = pack(long)
    assert all(common_prefix(held, wanted) == 99_998 for _ in range(200))
