from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.membership.deal import deal
from cluster.membership.roster import Node


def nodes(*ranks: int) -> list[Node]:
    return [Node(f"n{place}", 1, count, 0.0) for place, count in enumerate(ranks)]


def places(dealt: list[Node]) -> dict[str, int]:
    return {node.id: node.ranks for node in dealt}


def test_one_group_has_all() -> None:
    machines = nodes(1, 2, 1)
    assert deal(machines, [], 1) == machines
    assert deal(machines, [], 1)[1] is machines[1]


@pytest.mark.parametrize(
    ("ranks", "groups", "expected"),
    [
        ((2,), 2, [{"n0": 1}, {"n0": 1}]),
        ((1, 1), 2, [{"n0": 1}, {"n1": 1}]),
        ((1, 1, 1, 1), 2, [{"n0": 1, "n1": 1}, {"n2": 1, "n3": 1}]),
        ((2, 2), 2, [{"n0": 2}, {"n1": 2}]),
        ((1, 1, 1), 2, [{"n0": 1, "n1": 1}, {"n2": 1}]),
        ((1,), 2, [{"n0": 1}, {}]),
    ],
)
def test_even_parts(ranks: tuple[int, ...], groups: int, expected: list[dict[str, int]]) -> None:
    taken: list[dict[str, int]] = [{} for _ in range(groups)]
    for place in range(groups):
        others = taken[:place] + taken[place + 1 :]
        taken[place] = places(deal(nodes(*ranks), others, groups))
    assert taken == expected


def test_a_group_whose_machine_is_gone_takes_nothing_from_others() -> None:
    assert deal(nodes(1), [{"n0": 1}], 2) == []
    # It is back: the group that has a machine does not get this one as well.
    assert places(deal(nodes(1, 1), [{"n0": 1}], 2)) == {"n1": 1}
    assert places(deal(nodes(1, 1), [{}], 2)) == {"n0": 1}


@given(st.lists(st.integers(1, 4), max_size=6), st.integers(1, 4))
def test_no_place_twice(ranks: list[int], groups: int) -> None:
    machines = nodes(*ranks)
    taken: list[dict[str, int]] = [{} for _ in range(groups)]
    for place in range(groups):
        taken[place] = places(deal(machines, taken[:place] + taken[place + 1 :], groups))
    used: Counter[str] = Counter()
    for each in taken:
        used.update(each)
    assert all(used[node.id] <= node.ranks for node in machines)
    sizes = [sum(each.values()) for each in taken]
    assert sum(sizes) == sum(ranks)
    if sum(ranks) >= groups:
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
