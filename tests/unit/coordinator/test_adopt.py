"""Engines that nobody holds: who goes on with them, and who ends them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from cluster.coordinator.adopt import clear, left_behind, take_over, whole
from cluster.coordinator.epoch import Place, Recipe
from cluster.coordinator.share import Share, Shares
from cluster.core.cluster import LaunchSpec, ShardPlan
from cluster.core.errors import NodeUnreachable, NotAuthorized
from cluster.core.ids import Epoch, Rank

RECIPE = Recipe("demo", "digest", 5)


def spec(secret: str, rank: int, world: int = 2, epoch: int = 1, **fields: Any) -> LaunchSpec:
    plan = ShardPlan(world, Rank(rank), "tensor", "ring")
    made = LaunchSpec(Epoch(epoch), secret, "demo", "digest", plan, incarnation=4)
    return replace(made, **fields)


@dataclass
class Client:
    """An agent with engines; without, it does not answer."""

    left: tuple[LaunchSpec, ...] = ()
    stopped: list[tuple[str, int]] = field(default_factory=list)

    async def orphans(self) -> tuple[LaunchSpec, ...]:
        if not self.left:
            raise NodeUnreachable("the node agent does not answer")
        return self.left

    async def stop(self, secret: str, incarnation: int) -> int:
        self.stopped.append((secret, incarnation))
        if secret == "taken":
            raise NotAuthorized("coordinator 5 was replaced by 6")
        if secret == "away":
            raise NodeUnreachable("the node agent does not answer")
        return 1


def member(name: str, *left: LaunchSpec) -> Any:
    return SimpleNamespace(id=name, client=Client(left))


async def test_what_nobody_holds_and_no_newer_coordinator_has_asked_for() -> None:
    newer = spec("newer", 0, incarnation=6)
    other = spec("other", 1, model_digest="another model")
    one, two = member("one", spec("s", 0), newer), member("two", other, spec("s", 1))
    found = await left_behind([one, member("away"), two], 5)
    assert [(place.member.id, place.spec.secret) for place in found] == [
        ("one", "s"), ("two", "other"), ("two", "s"),
    ]  # fmt: skip
    assert [place.spec.plan.rank for place in whole(found, RECIPE)] == [0, 1]
    assert {place.spec.secret for place in whole(found, RECIPE)} == {"s"}


def places(*specs: LaunchSpec) -> list[Place]:
    return [Place(member("one"), each) for each in specs]


def test_a_group_is_whole_or_none() -> None:
    """Ranks of two coordinators that count their epochs alike make none."""
    assert whole([], RECIPE) == []
    assert whole(places(spec("a", 0), spec("b", 1)), RECIPE) == []
    assert whole(places(spec("a", 1), spec("b", 1), spec("b", 0)), RECIPE)[0].spec.secret == "b"
    newest = whole(places(spec("a", 0, 1, epoch=1), spec("b", 0, 1, epoch=2)), RECIPE)
    assert [place.spec.secret for place in newest] == ["b"]


async def test_what_is_of_no_use_is_ended_epoch_by_epoch() -> None:
    left = [spec("s", 0), spec("s", 1), spec("taken", 0), spec("away", 0), spec("t", 0)]
    here, there = member("one", *left), member("two", spec("s", 1))
    await clear(await left_behind([here, there], 5), 5)
    assert sorted(here.client.stopped) == [("away", 5), ("s", 5), ("t", 5), ("taken", 5)]
    assert there.client.stopped == [("s", 5)]


def group_of(secret: str, *members: Any, **fields: Any) -> list[Place]:
    return [
        Place(each, spec(secret, rank, len(members), **fields)) for rank, each in enumerate(members)
    ]


def shares(count: int) -> tuple[Shares, list[Share]]:
    made = Shares(SimpleNamespace(roster=None))  # type: ignore[arg-type]
    return made, [made.new("m", place, count) for place in range(count)]


@dataclass(frozen=True)
class Machine:
    id: str
    ranks: int = 1


def machines(*names: str) -> list[Any]:
    return [Machine(name) for name in names]


def test_a_group_takes_over_engines_once_and_only_on_just_its_machines() -> None:
    _, (share,) = shares(1)
    one, two, three = machines("one", "two", "three")
    found, other = group_of("s", one, two), group_of("t", three)
    group, rest = take_over([*found, *other], [one, two], (), RECIPE, share)
    assert (group, rest) == (found, other)
    assert share.secret == "s"
    share.secret = ""
    group, rest = take_over(found, [one, two], (), RECIPE, share)
    assert (group, rest) == ([], found)  # its own, from an epoch that has ended
    _, (share,) = shares(1)
    assert take_over(found, [one, two, three], (), RECIPE, share) == ([], found)
    _, (share,) = shares(1)
    assert take_over(found, [one, two], (3, 1), RECIPE, share) == ([], found)  # in other parts


def test_what_is_left_for_another_group_of_the_model() -> None:
    _, (first, second) = shares(2)
    one, two = machines("one", "two")
    mine, theirs = group_of("s", one), group_of("t", one, two)
    stranger = group_of("u", one, model_digest="another model")
    group, rest = take_over([*mine, theirs[0], *stranger], [one], (), RECIPE, first)
    assert (group, rest) == (mine, stranger)
    # What the first one has taken is not found again, though nobody may hold it for a moment.
    group, rest = take_over([*mine, *theirs], [one, two], (), RECIPE, second)
    assert (group, rest) == (theirs, [])
    second.secret = ""
    assert take_over([*mine, *theirs], [one, two], (), RECIPE, second) == ([], theirs)
