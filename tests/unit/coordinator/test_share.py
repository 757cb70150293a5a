"""What one of two groups may take of the machines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster.coordinator.changes import Changes
from cluster.coordinator.share import Share, Shares
from cluster.membership.roster import FIRST_BAR, Roster


def two(*names: str) -> tuple[Roster, Share, Share]:
    roster = Roster()
    for name in names:
        roster.arrive(name, 1, 0.0)
    members: Any = SimpleNamespace(roster=roster, changes=Changes())
    shares = Shares(members)
    return roster, shares.new("m", 0, 2), shares.new("m", 1, 2)


def usable(share: Share) -> list[str]:
    return [node.id for node in share.usable(0.0)]


def take(share: Share, *names: str) -> None:
    members: Any = [SimpleNamespace(id=name, ranks=1) for name in names]
    share.take(members, "tensor", 0)


def test_what_failed_on_a_machine_leaves_it_out_only_where_another_is_left_for_the_group() -> None:
    roster, first, second = two("a", "b")
    take(first, "a")
    roster.failed("b", 0.0)
    assert usable(second) == ["b"]
    roster, first, second = two("a", "b", "c")
    take(first, "a")
    roster.failed("b", 0.0)
    assert usable(second) == ["c"]
    assert [node.id for node in second.usable(FIRST_BAR)] == ["b", "c"]


def test_another_group_has_run_until_the_model_is_unloaded() -> None:
    _, first, second = two("a", "b")
    assert not second.others_ran
    first.worked(["a"])
    assert second.others_ran and not first.others_ran
    first.let_go()
    assert not second.others_ran
