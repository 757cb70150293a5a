from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.core.errors import (
    BadConfiguration,
    CannotShard,
    DigestMismatch,
    EngineCrashed,
    EpochEnded,
    LaunchFailed,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    Regrouped,
    StepOverdue,
    StepRefused,
    TandemError,
)
from cluster.membership.epochs import PAUSES, QUIET_SECONDS, Epochs
from cluster.membership.roster import DEAD_SECONDS, FIRST_BAR, Node, Roster


def even_or_one(nodes: Sequence[Node]) -> int:
    world = sum(node.ranks for node in nodes)
    if world % 2 and world != 1:
        raise CannotShard(f"{world} ranks")
    return world


def make(*names: str) -> tuple[Roster, Epochs[int]]:
    roster = Roster()
    for name in names:
        roster.arrive(name, 1, 0.0, name=f"{name}.local")
    return roster, Epochs(roster, even_or_one)


def ids(epochs: Epochs[int], now: float) -> list[str]:
    return [node.id for node in epochs.next(now)[0]]


def test_numbers_and_machines() -> None:
    roster, epochs = make("a", "b", "c")
    assert (epochs.number, epochs.started) == (0, False)
    assert ids(epochs, 0.0) == ["a", "b"]
    roster.failed("a", 0.0)
    assert ids(epochs, 0.0) == ["b", "c"]
    assert epochs.number == 2 and not epochs.started
    epochs.begun()
    assert epochs.started
    assert ids(epochs, FIRST_BAR) == ["a", "b"]
    with pytest.raises(NodeUnreachable):
        epochs.next(DEAD_SECONDS)
    assert epochs.number == 3


def test_what_worked_is_no_longer_barred() -> None:
    roster, epochs = make("a")
    roster.failed("a", 0.0)
    assert ids(epochs, 0.0) == ["a"]  # nobody else is left
    epochs.begun()
    node = roster.find("a")
    assert node is not None and not node.barred_until


def test_silence_ends_it_only_where_steps_do_not_advance() -> None:
    roster, epochs = make("a", "b")
    epochs.next(0.0)
    roster.heard("a", 1, 10.0)
    epochs.look(10.0, silent=DEAD_SECONDS, idle=False)
    with pytest.raises(NodeLost, match=r"^b\.local gave no sign of life$"):
        epochs.look(10.0, silent=DEAD_SECONDS + 0.1, idle=False)
    roster.leave("a", 1)
    with pytest.raises(NodeLost, match=r"a\.local, b\.local"):
        epochs.look(10.0, silent=DEAD_SECONDS + 0.1, idle=False)
    roster.arrive("a", 2, 10.0)  # started again: its engine is gone, which its agent says
    roster.heard("b", 1, 10.0)
    epochs.look(10.0, silent=60.0, idle=False)


def test_a_machine_that_is_to_be_free() -> None:
    roster, epochs = make("a", "b", "c")
    epochs.next(0.0)
    for name, ends in (("c", False), ("b", True)):
        node = roster.find(name)
        assert node is not None
        node.draining = True
        if not ends:
            epochs.look(0.0, silent=0.0, idle=False)
            continue
        with pytest.raises(Regrouped, match="free"):
            epochs.look(0.0, silent=0.0, idle=False)
    assert ids(epochs, 0.0) == ["a"]


def test_a_larger_group_waits_for_a_quiet_moment() -> None:
    roster, epochs = make("a")
    epochs.next(0.0)
    epochs.look(1.0, silent=0.0, idle=True)
    now = 1.0 + QUIET_SECONDS
    epochs.look(now, silent=0.0, idle=True)  # quiet, but nobody else is here
    for name in ("b", "c"):
        roster.arrive(name, 1, now)
    roster.heard("a", 1, now)
    epochs.look(now, silent=0.0, idle=False)  # not quiet any more
    epochs.look(now + 1.0, silent=0.0, idle=True)
    roster.heard("a", 1, now + 4.0)
    roster.heard("b", 1, now + 4.0)
    epochs.look(now + 0.9 + QUIET_SECONDS, silent=0.0, idle=True)
    with pytest.raises(Regrouped, match="more machines"):
        epochs.look(now + 1.0 + QUIET_SECONDS, silent=0.0, idle=True)
    assert ids(epochs, now + 4.0) == ["a", "b"]
    epochs.look(now + 4.0, silent=0.0, idle=True)  # three can't serve it


def test_a_larger_group_that_was_asked_for_does_not_wait() -> None:
    roster, epochs = make("a")
    epochs.next(0.0)
    epochs.asked = True
    epochs.look(1.0, silent=0.0, idle=False)  # there is none
    roster.arrive("b", 1, 1.0)
    epochs.look(1.0, silent=0.0, idle=False)  # that was then
    epochs.asked = True
    with pytest.raises(Regrouped, match="more machines"):
        epochs.look(1.0, silent=0.0, idle=False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EpochEnded("the engine failed"), True),
        (EngineCrashed("killed"), True),
        (StepRefused("step 3 after step 1"), True),
        (DigestMismatch("step 3"), True),
        (NodeLost("gone"), False),
        (StepOverdue("late"), False),
        (Regrouped("drained"), False),
    ],
)
def test_who_may_be_to_blame(error: TandemError, expected: bool) -> None:
    _, epochs = make("a")
    assert isinstance(error, EpochEnded | StepRefused | DigestMismatch)
    for _ in range(2):
        epochs.next(0.0)
        epochs.begun()
        assert epochs.ended(error) is expected
        assert epochs.pause == PAUSES[0]
    for failures in (1, 2):  # nobody was computed
        epochs.next(0.0)
        assert not epochs.ended(error)
        assert epochs.pause == PAUSES[failures]


def test_a_coordinator_that_was_replaced_does_not_go_on() -> None:
    _, epochs = make("a")
    with pytest.raises(NotAuthorized):
        epochs.ended(NotAuthorized("coordinator 1 was replaced by 2"))


def test_before_the_first_epoch_a_person_is_told() -> None:
    _, epochs = make("a")
    epochs.failed(LaunchFailed("a port was taken"))  # once more
    with pytest.raises(LaunchFailed, match="again"):
        epochs.failed(LaunchFailed("again"))
    _, epochs = make("a")
    with pytest.raises(BadConfiguration):
        epochs.failed(BadConfiguration("no"))


def test_another_group_of_the_model_does_not_end_with_one_that_never_came_up() -> None:
    _, epochs = make("a")
    for _ in range(3):
        epochs.failed(NodeUnreachable("nobody is here"), others=True)
    with pytest.raises(NodeUnreachable):
        epochs.failed(NodeUnreachable("nobody is here"))


def test_attempts_are_made_ever_less_often() -> None:
    _, epochs = make("a")
    epochs.next(0.0)
    epochs.begun()
    pauses = [epochs.pause]
    for _ in range(len(PAUSES)):
        epochs.failed(NodeUnreachable("nobody is here"))
        pauses.append(epochs.pause)
    assert pauses == [*PAUSES, PAUSES[-1]]
    epochs.next(0.0)
    epochs.begun()
    epochs.ended(NodeLost("one ran in between"))
    assert epochs.pause == PAUSES[0]
