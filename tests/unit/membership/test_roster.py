from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import NotAuthorized
from cluster.membership.roster import (
    DEAD_SECONDS,
    DEAD_WIRELESS_SECONDS,
    FIRST_BAR,
    LAST_BAR,
    SUSPECT_SECONDS,
    Presence,
    Roster,
)


def ids(roster: Roster, now: float) -> list[str]:
    return [node.id for node in roster.usable(now)]


def test_silence() -> None:
    roster = Roster()
    wired = roster.arrive("a", 1, 100.0)
    wireless = roster.arrive("b", 1, 100.0, wireless=True)
    for silent, expected in (
        (0.0, Presence.ALIVE),
        (SUSPECT_SECONDS - 0.01, Presence.ALIVE),
        (SUSPECT_SECONDS, Presence.SUSPECT),
        (DEAD_SECONDS - 0.01, Presence.SUSPECT),
        (DEAD_SECONDS, Presence.DEAD),
    ):
        assert wired.presence(100.0 + silent) is expected
    assert wireless.presence(100.0 + DEAD_WIRELESS_SECONDS - 0.01) is Presence.SUSPECT
    assert wireless.presence(100.0 + DEAD_WIRELESS_SECONDS) is Presence.DEAD
    assert ids(roster, 100.0 + DEAD_SECONDS) == ["b"]
    assert roster.gone(["a", "b", "never"], 100.0 + DEAD_SECONDS) == ["a", "never"]
    assert roster.heard("a", 1, 106.0)
    assert ids(roster, 106.0) == ["a", "b"]


def test_who_was_heard_a_moment_ago() -> None:
    roster = Roster()
    for name, heard in (("silent", 0.0), ("draining", 9.0), ("failed", 9.0)):
        roster.arrive(name, 1, heard)
    draining = roster.find("draining")
    assert draining is not None
    draining.draining = True
    roster.failed("failed", 9.0)
    assert [node.id for node in roster.alive(10.0)] == ["draining", "failed"]
    assert roster.alive(9.0 + SUSPECT_SECONDS) == []


def test_a_machine_that_only_gives_weights() -> None:
    """It is never one of a group, not even where no other is left."""
    roster = Roster()
    roster.arrive("source", 1, 1.0, ranks=0)
    assert ids(roster, 1.0) == []
    roster.arrive("a", 1, 1.0, ranks=2)
    roster.failed("a", 1.0)
    assert ids(roster, 1.0) == ["a"]
    assert [node.id for node in roster.computing] == ["a"]
    assert [node.id for node in roster.alive(1.0)] == ["source", "a"]


def test_a_machine_that_was_started_again_takes_its_old_place() -> None:
    roster = Roster()
    for name in ("a", "b"):
        roster.arrive(name, 1, 0.0)
    first = roster.find("a")
    again = roster.arrive("a", 2, 1.0, ranks=2)
    assert again is not first and ids(roster, 1.0) == ["a", "b"]
    assert not roster.heard("a", 1, 2.0)  # the ghost is not the machine
    roster.leave("a", 1)
    assert roster.find("a") is again
    roster.leave("a", 2)
    assert ids(roster, 1.0) == ["b"]
    roster.arrive("a", 3, 1.0)
    assert ids(roster, 1.0) == ["a", "b"]


def test_an_older_start_of_the_same_machine_is_refused() -> None:
    roster = Roster()
    roster.arrive("a", 5, 0.0)
    with pytest.raises(NotAuthorized, match="incarnation 5, not 4"):
        roster.arrive("a", 4, 1.0)
    assert roster.arrive("a", 5, 2.0).heard == 2.0


def test_draining() -> None:
    roster = Roster()
    for name in ("a", "b"):
        roster.arrive(name, 1, 0.0)
    node = roster.find("a")
    assert node is not None
    node.draining = True
    assert ids(roster, 0.0) == ["b"]
    assert roster.arrive("a", 2, 0.0).draining  # a restart is no reason to use it again


def test_what_failed_is_left_out_for_a_while() -> None:
    roster = Roster()
    for name in ("a", "b"):
        roster.arrive(name, 1, 0.0)
    roster.failed("a", 0.0)
    assert ids(roster, 0.0) == ["b"]
    assert ids(roster, FIRST_BAR) == ["a", "b"]
    roster.failed("b", 0.0)
    assert ids(roster, 0.0) == ["a", "b"]  # nobody else is left
    for _ in range(20):
        roster.failed("a", 0.0)
    node = roster.find("a")
    assert node is not None and node.barred_until == LAST_BAR
    roster.worked(["a", "b", "gone"])
    assert node.barred_until == 0.0
    roster.failed("gone", 0.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 3))))
def test_incarnations_never_go_back(events: list[tuple[str, int, int]]) -> None:
    roster, highest = Roster(), dict.fromkeys("abc", -1)
    for name, incarnation, what in events:
        known = roster.find(name)
        if what == 0:
            roster.leave(name, incarnation)
            if known is not None and known.incarnation == incarnation:
                highest[name] = -1
        elif what == 1:
            assert roster.heard(name, incarnation, 1.0) == (highest[name] == incarnation)
        elif incarnation < highest[name]:
            with pytest.raises(NotAuthorized):
                roster.arrive(name, incarnation, 1.0)
        else:
            highest[name] = roster.arrive(name, incarnation, 1.0).incarnation
        known = roster.find(name)
        assert (known.incarnation if known else -1) == highest[name]
