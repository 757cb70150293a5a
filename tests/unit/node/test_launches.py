"""Which engines an agent has, and whom it obeys about them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cluster.core.cluster import LaunchSpec, ShardPlan
from cluster.core.errors import LaunchFailed, NotAuthorized, NotFound
from cluster.core.ids import Epoch, Rank
from cluster.node.launches import MOST_ENGINES, REMEMBERED, Launches


@dataclass(eq=False)
class Launch:
    spec: LaunchSpec


@pytest.fixture
def launches() -> Launches[Launch]:
    return Launches("node-1")


def launch(secret: str = "s", rank: int = 0, incarnation: int = 1, epoch: int = 1) -> Launch:
    plan = ShardPlan(8, Rank(rank), "tensor", "ring")
    return Launch(LaunchSpec(Epoch(epoch), secret, "m", "d", plan, incarnation=incarnation))


def test_epochs_of_one_number_side_by_side(launches: Launches[Launch]) -> None:
    one, other, two = launch("a"), launch("b", incarnation=2), launch("a", rank=1)
    for each in (one, other, two):
        launches.admit(each)
    assert launches.of("a", 1) == [one, two]
    assert launches.of("b", 2) == [other]
    assert launches.find("a", Rank(1), 1) is two
    with pytest.raises(LaunchFailed, match="rank 0 of epoch 1 already runs on node-1"):
        launches.admit(launch("a"))
    launches.forget(one)
    launches.forget(one)
    assert list(launches) == [other, two]
    launches.admit(launch("a"))


@pytest.mark.parametrize("secret", ["", "a", "abc", "\xe4\u2713"])
def test_a_secret_that_is_not_known(launches: Launches[Launch], secret: str) -> None:
    launches.admit(launch("ab"))
    assert launches.of(secret, 9) == []
    with pytest.raises(NotFound, match="no engine of rank 0"):
        launches.find(secret, Rank(0), 9)
    with pytest.raises(NotFound, match="no engine of rank 3"):
        launches.find("ab", Rank(3), 9)


def test_an_older_coordinator_is_refused_for_good(launches: Launches[Launch]) -> None:
    """All ranks of the epoch, also those that the newer one has not asked for yet."""
    first, second = launch(rank=0, incarnation=3), launch(rank=1, incarnation=3)
    launches.admit(first)
    launches.admit(second)
    with pytest.raises(NotAuthorized, match="coordinator 2 was replaced by 3"):
        launches.of("s", 2)
    assert launches.incarnation(first) == 3
    assert launches.find("s", Rank(0), 5) is first
    assert launches.incarnation(second) == 5
    for ask in (
        lambda: launches.of("s", 3),
        lambda: launches.find("s", Rank(1), 4),
        lambda: launches.admit(launch(rank=2, incarnation=3)),
    ):
        with pytest.raises(NotAuthorized, match="was replaced by 5"):
            ask()
    launches.forget(first)
    launches.forget(second)
    with pytest.raises(NotAuthorized, match="coordinator 3 was replaced by 5"):
        launches.of("s", 3)
    assert launches.of("s", 5) == []


def test_an_unknown_secret_leaves_no_trace(launches: Launches[Launch]) -> None:
    launches.of("s", 9)
    launches.admit(launch("s", incarnation=1))
    assert len(launches.of("s", 1)) == 1


def test_bounds(launches: Launches[Launch]) -> None:
    for rank in range(MOST_ENGINES):
        launches.admit(launch("kept", rank))
    with pytest.raises(LaunchFailed, match=f"already runs {MOST_ENGINES} engines"):
        launches.admit(launch("more"))
    launches.forget(launches.find("kept", Rank(0), 1))
    for number in range(2 * REMEMBERED):
        passing = launch(f"s{number}")
        launches.admit(passing)
        launches.forget(passing)
    assert len(launches._newest) == REMEMBERED
    assert len(launches.of("kept", 2)) == MOST_ENGINES - 1
    with pytest.raises(NotAuthorized):
        launches.of("kept", 1)
