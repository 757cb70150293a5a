"""Whom an engine listens to, and which step comes next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.cluster import Hello, ShardPlan, Versions
from cluster.core.engine_protocol import PENDING, Fence, StepWindow
from cluster.core.errors import NotAuthorized, ProtocolError, StepRefused, VersionMismatch
from cluster.core.ids import Epoch, Rank, Seq
from cluster.core.plan import Step

MINE = Hello(Epoch(3), 0, Versions(1, "a", "b", "c"), "digest", ShardPlan(2, Rank(1)))


def theirs(incarnation: int, received: int | None = None) -> Hello:
    return replace(MINE, incarnation=incarnation, received=received)


def step(seq: int, epoch: int = 3) -> Step:
    return Step(Epoch(epoch), Seq(seq))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": Epoch(4)}, "epoch 3 here, 4 there"),
        ({"versions": Versions(2, "a", "b", "c")}, "protocol 1 here, 2 there"),
        ({"model_digest": "other"}, "digest here, other there"),
        ({"plan": ShardPlan(2, Rank(0))}, "shard plan"),
    ],
)
def test_what_differs_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    fence: Fence[int] = Fence()
    with pytest.raises(VersionMismatch, match=f"rank 1: .*{words}"):
        fence.admit(MINE, replace(theirs(5), **changes))  # type: ignore[arg-type]
    assert fence.incarnation == 0


def test_a_higher_incarnation_begins_and_an_older_one_is_kept_out() -> None:
    fence: Fence[int] = Fence()
    assert fence.admit(MINE, theirs(5))
    first = fence.session
    first.receive(1, 0)
    assert not fence.admit(MINE, theirs(5, received=0))
    assert fence.session is first
    assert fence.admit(MINE, theirs(7))
    assert fence.session is not first
    assert fence.session.received == 0
    for received in (None, 0):
        with pytest.raises(NotAuthorized, match="coordinator 5 was replaced by 7"):
            fence.admit(MINE, theirs(5, received))
    assert fence.incarnation == 7


def test_only_a_session_that_exists_goes_on() -> None:
    fence: Fence[int] = Fence()
    with pytest.raises(ProtocolError, match="no session of coordinator 5"):
        fence.admit(MINE, theirs(5, received=0))
    fence.admit(MINE, theirs(5))
    with pytest.raises(ProtocolError, match="no session of coordinator 6"):
        fence.admit(MINE, theirs(6, received=0))
    with pytest.raises(ProtocolError, match="can't go on after message 1"):
        fence.admit(MINE, theirs(5, received=1))
    assert fence.incarnation == 5


def test_a_session_begins_once_something_was_said_in_it() -> None:
    fence: Fence[int] = Fence()
    assert fence.admit(MINE, theirs(5))
    assert fence.admit(MINE, theirs(5))  # our answer to the first hello was lost
    fence.session.receive(1, 0)
    with pytest.raises(ProtocolError, match="has a session already, in which 1 "):
        fence.admit(MINE, theirs(5))


def test_steps_follow_each_other() -> None:
    window = StepWindow(Epoch(3))
    with pytest.raises(StepRefused, match="step 1 of epoch 4 in epoch 3"):
        window.take(step(1, epoch=4))
    for seq in range(1, PENDING + 1):
        window.take(step(seq))
        for wrong in (seq, seq + 2):
            with pytest.raises(StepRefused, match=f"step {wrong} after step {seq}"):
                window.take(step(wrong))
    with pytest.raises(StepRefused, match=f"while {PENDING} steps are not done"):
        window.take(step(PENDING + 1))
    assert window.answer()
    window.take(step(PENDING + 1))
    assert (window.taken, window.answered) == (PENDING + 1, 1)


@given(st.lists(st.sampled_from(["take", "answer", "reset"]), max_size=60))
def test_a_session_gets_answers_to_its_own_steps(told: list[str]) -> None:
    window = StepWindow(Epoch(3))
    session, seq, answered = 0, 0, 0
    under_way: list[int] = []
    for what in told:
        if what == "reset":
            session, seq, answered = session + 1, 0, 0
            window.reset()
        elif what == "answer" and under_way:
            mine = under_way.pop(0) == session
            answered += mine
            assert window.answer() == mine
        elif what == "take":
            if seq - answered == PENDING:
                with pytest.raises(StepRefused):
                    window.take(step(seq + 1))
                continue
            seq += 1
            window.take(step(seq))
            under_way.append(session)
        assert window.taken - window.answered == len(under_way)
