"""What the groups of a model would serve in what others leave of the machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.coordinator.members import Member
from cluster.coordinator.room import Site, fittings
from cluster.coordinator.runner import Fitting
from cluster.coordinator.share import Shares
from cluster.core.cluster import Blas, NodeDescription, Versions
from cluster.core.config import Limits
from cluster.core.errors import BadConfiguration, DoesNotFit, SetupError
from cluster.core.view import ServedModel
from cluster.membership.choice import Merit
from cluster.membership.fleet import Known, State
from cluster.membership.roster import Node, Roster


class Machines:
    """In place of Members."""

    def __init__(self, usable: dict[str, int], ranks: int = 1) -> None:
        self.roster = Roster()
        self._members = {}
        for name, each in usable.items():
            self.roster.arrive(name, 1, 0.0, ranks=ranks, name=name)
            described = NodeDescription(
                name, name, "", 8, each, each, "", Versions(1, "", "", ""),
                Blas("", "", True, ""), (), "",
            )  # fmt: skip
            self._members[name] = Member(None, described, ranks)  # type: ignore[arg-type]

    def of(self, nodes: Sequence[Node]) -> list[Member]:
        found = [(node, self._members[node.id]) for node in nodes]
        return [replace(m, ranks=n.ranks, beside=m.ranks - n.ranks) for n, m in found]


class Needs:
    """Takes `size` bytes of each rank; with fewer than `whole` it is a makeshift."""

    def __init__(self, size: int, whole: int = 0) -> None:
        self.size, self.whole = size, whole

    def fit(self, members: Sequence[Member]) -> Fitting:
        usable = min(member.description.usable_bytes // member.ranks for member in members)
        if usable < self.size:
            raise DoesNotFit(f"{usable} bytes")
        world = sum(member.ranks for member in members)
        limits = Limits(sequences=world)
        model = ServedModel("", usable, 0, demo=False, rank_bytes=self.size)
        return Fitting("tensor", limits, model, merit=Merit(makeshift=usable < self.whole))

    def refusal(self, members: Sequence[Member], error: SetupError) -> SetupError:
        left = {member.id: member.description.usable_bytes for member in members}
        return BadConfiguration(f"{error}, of {left}")


def sites(machines: Machines, forms: Needs, replicas: int = 1) -> tuple[Shares, list[Site]]:
    shares = Shares(machines)  # type: ignore[arg-type]
    return shares, [Site(shares.new("a", i, replicas), forms) for i in range(replicas)]


def beside(shares: Shares, machine: str, size: int, **known: Any) -> Known:
    """Another model that runs on a machine, and takes so much of it."""
    share = shares.new("b", 0, 1)
    member = SimpleNamespace(id=machine, ranks=1)
    share.take([member], "single", size)  # type: ignore[list-item]
    return Known("b", state=State.LOADED, **known)


def test_one_group_takes_all_machines() -> None:
    _, where = sites(Machines({"x": 10, "y": 8}), Needs(5))
    (found,) = fittings(where, [], [], 1.0)
    assert (found.limits.sequences, found.model.context) == (2, 8)


def test_groups_are_dealt_machines_of_their_own() -> None:
    _, where = sites(Machines({"x": 10, "y": 8}), Needs(5), replicas=2)
    assert [each.model.context for each in fittings(where, [], [], 1.0)] == [10, 8]
    _, where = sites(Machines({"x": 10}, ranks=2), Needs(5), replicas=2)
    assert [each.model.context for each in fittings(where, [], [], 1.0)] == [5, 5]


def test_what_another_model_takes_is_room_once_it_is_gone() -> None:
    shares, where = sites(Machines({"x": 10}), Needs(5))
    other = beside(shares, "x", 6)
    with pytest.raises(DoesNotFit, match="^4 bytes$"):
        fittings(where, [other], [], 1.0)
    (found,) = fittings(where, [other], ["b"], 1.0)
    assert found.model.context == 10


def test_only_where_nothing_more_could_go_it_is_said_at_length() -> None:
    shares, where = sites(Machines({"x": 10}), Needs(11))
    other = beside(shares, "x", 6)
    with pytest.raises(DoesNotFit, match="^4 bytes$"):
        fittings(where, [other], [], 1.0)
    with pytest.raises(BadConfiguration, match=r"^10 bytes, of \{'x': 10\}$"):
        fittings(where, [other], ["b"], 1.0)
    with pytest.raises(BadConfiguration, match=r"^4 bytes, of \{'x': 4\}$"):
        fittings(where, [replace(other, pinned=True)], [], 1.0)


def test_a_makeshift_does_only_where_nothing_more_could_go() -> None:
    shares, where = sites(Machines({"x": 10}), Needs(3, whole=8))
    other = beside(shares, "x", 6)
    with pytest.raises(DoesNotFit, match="short context"):
        fittings(where, [other], [], 1.0)
    (found,) = fittings(where, [replace(other, pinned=True)], [], 1.0)
    assert found.model.context == 4
    asleep = replace(other, state=State.UNLOADED)
    assert fittings(where, [asleep], [], 1.0)[0].model.context == 4


def test_a_group_without_a_place_is_refused() -> None:
    _, where = sites(Machines({"x": 10, "y": 2}), Needs(5), replicas=2)
    with pytest.raises(BadConfiguration, match=r"^2 bytes, of \{'y': 2\}$"):
        fittings(where, [], [], 1.0)
