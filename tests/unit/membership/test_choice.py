from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.core.errors import CannotShard, NodeUnreachable
from cluster.membership.choice import Merit, choose
from cluster.membership.roster import Node


def nodes(*ranks: int) -> list[Node]:
    return [Node(f"n{i}", 1, count, 0.0) for i, count in enumerate(ranks)]


def only(*worlds: int):
    def fit(group: Sequence[Node]) -> int:
        world = sum(node.ranks for node in group)
        if world not in worlds:
            raise CannotShard(f"{world} ranks")
        return world

    return fit


@pytest.mark.parametrize(
    ("ranks", "worlds", "expected"),
    [
        ((1, 1), (1, 2, 4), "n0 n1"),
        ((1, 1, 1), (1, 2, 4), "n0 n1"),
        ((2, 1, 1), (1, 2, 4), "n0 n1 n2"),
        ((2, 1, 1), (1, 2), "n0"),
        ((2, 1), (1,), "n1"),
        ((1,) * 7, (1, 2, 4), "n0 n1 n2 n3"),
        ((1,) * 20, (1, 2, 16), " ".join(f"n{i}" for i in range(16))),
    ],
)
def test_most_ranks_and_first_machines(
    ranks: tuple[int, ...], worlds: tuple[int, ...], expected: str
) -> None:
    chosen, world = choose(nodes(*ranks), only(*worlds))
    assert " ".join(node.id for node in chosen) == expected
    assert world == sum(node.ranks for node in chosen)


def test_the_best_of_the_largest() -> None:
    def worth(group: Sequence[Node]) -> Merit:
        return Merit(worth=(sum(int(node.id[1:]) for node in group),))

    def pair(group: Sequence[Node]) -> Sequence[Node]:
        only(1, 2)(group)
        return group

    chosen, _ = choose(nodes(1, 1, 1, 1), pair, worth)
    assert [node.id for node in chosen] == ["n2", "n3"]
    chosen, _ = choose(nodes(1, 1, 1, 1), pair)
    assert [node.id for node in chosen] == ["n0", "n1"]


def test_a_makeshift_gives_way_to_any_other() -> None:
    def merit(world: int) -> Merit:
        return Merit(makeshift=world > 1)

    chosen, _ = choose(nodes(1, 1, 1), only(1, 2, 3), merit)
    assert [node.id for node in chosen] == ["n0"]
    chosen, _ = choose(nodes(1, 1, 1), only(2, 3), merit)
    assert len(chosen) == 3, "of makeshifts the largest"


def test_no_group_serves() -> None:
    with pytest.raises(CannotShard, match="3 ranks"):
        choose(nodes(2, 1), only(7))
    with pytest.raises(NodeUnreachable):
        choose([], only(1))


def test_a_machine_that_does_not_fit_is_left_out() -> None:
    def fit(group: Sequence[Node]) -> None:
        if any(node.id == "n1" for node in group):
            raise CannotShard("n1 is too small")

    chosen, _ = choose(nodes(1, 1, 1), fit)
    assert [node.id for node in chosen] == ["n0", "n2"]
