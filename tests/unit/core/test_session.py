"""Everything once and in order, however streams break."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import ProtocolError
from cluster.core.session import ACKNOWLEDGED, WINDOW, Session

Message = tuple[int, int, int | None]
"""Number, what it acknowledges, what it says."""
Make = Callable[[], Session[int]]


class Side:
    """One side: what it said and heard, and what is on its way to it."""

    def __init__(self, session: Session[int]) -> None:
        self.session = session
        self.said = 0
        self.heard: list[int] = []
        self.coming: deque[Message] = deque()
        self.most = 0

    def say(self) -> None:
        if not self.session.full:
            self.said += 1
            self.session.put(self.said)
            self.most = max(self.most, self.session.kept)

    def write(self, other: Side) -> None:
        """The next message; an acknowledgement that is due if there is none."""
        if (said := self.session.next()) is not None:
            other.coming.append(said)
        elif self.session.due:
            other.coming.append((0, self.session.acknowledge(), None))

    def hear(self) -> None:
        if self.coming:
            number, acknowledged, body = self.coming.popleft()
            if self.session.receive(number, acknowledged):
                assert body is not None
                self.heard.append(body)


def talk(actions: list[tuple[str, int, int]], make: Make = Session) -> tuple[Side, Side]:
    """Two sides that do as told: (what, which side, how many). A break loses all but the first
    so many messages on their way to each side; those may come before the hellos do."""
    sides = Side(make()), Side(make())
    for what, which, count in actions:
        side, other = sides[which], sides[1 - which]
        if what == "break":
            for each in sides:
                early = [each.coming.popleft() for _ in range(min(count, len(each.coming)))]
                each.coming = deque(early)
                while each.coming:
                    each.hear()
            received = [each.session.received for each in sides]
            sides[0].session.resume(received[1])
            sides[1].session.resume(received[0])
            continue
        for _ in range(count):
            match what:
                case "say":
                    side.say()
                case "write":
                    side.write(other)
                case "hear":
                    side.hear()
    return sides


def settle(sides: tuple[Side, Side]) -> None:
    """All that was said is heard."""
    for _ in range(4 * WINDOW):
        for side, other in (sides, sides[::-1]):
            side.write(other)
            side.hear()


def check(sides: tuple[Side, Side]) -> None:
    for side, other in (sides, sides[::-1]):
        assert other.heard == list(range(1, side.said + 1))
        assert side.most <= WINDOW
        assert side.session.kept < ACKNOWLEDGED  # the rest was acknowledged by itself


actions = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "write", "write", "hear", "hear", "break"]),
        st.integers(0, 1),
        st.integers(0, 40),
    ),
    max_size=80,
)


@given(actions)
@settings(max_examples=300, deadline=None)
def test_everything_comes_once_and_in_order(told: list[tuple[str, int, int]]) -> None:
    sides = talk(told)
    for side, other in (sides, sides[::-1]):
        assert other.heard == list(range(1, len(other.heard) + 1))
        assert len(other.heard) <= side.said
    settle(sides)
    check(sides)


def test_a_broken_stream_may_still_be_read() -> None:
    """What the old stream brings after the new one is open does no harm."""
    ours, theirs = Session[int](), Session[int]()
    for body in (1, 2, 3):
        ours.put(body)
    old = [ours.next() for _ in range(3)]
    theirs.resume(ours.received)
    ours.resume(theirs.received)
    new = [ours.next() for _ in range(3)]
    heard = [
        message[2]
        for message in (old[0], new[0], old[1], old[2], new[1], new[2])
        if message is not None and theirs.receive(*message[:2])
    ]
    assert heard == [1, 2, 3]


def test_no_more_is_kept_than_the_window() -> None:
    session = Session[int](window=3)
    for body in range(3):
        assert not session.full
        session.put(body)
    with pytest.raises(ProtocolError, match="3 messages are not acknowledged, .* number 1"):
        session.put(3)
    assert session.kept == 3
    assert [session.next() for _ in range(4)] == [(1, 0, 0), (2, 0, 1), (3, 0, 2), None]
    session.receive(0, 2)
    session.put(3)
    assert session.next() == (4, 0, 3)


def test_a_gap_is_refused() -> None:
    session = Session[int]()
    assert session.receive(1, 0)
    for number in (3, 4):
        with pytest.raises(ProtocolError, match=f"message {number} came after message 1"):
            session.receive(number, 0)
    assert not session.receive(1, 0)
    assert session.receive(2, 0)
    assert session.received == 2


def test_what_was_never_said_cant_be_acknowledged() -> None:
    session = Session[int]()
    session.put(1)
    with pytest.raises(ProtocolError, match="message 1 of 0"):
        session.receive(1, 1)
    assert session.received == 0
    session.next()
    assert session.receive(1, 1)
    assert session.kept == 0


def test_another_session_cant_go_on() -> None:
    session = Session[int]()
    for body in range(3):
        session.put(body)
        session.next()
    session.receive(0, 2)
    for received in (1, 4):
        with pytest.raises(ProtocolError, match=f"after message {received}: 2 .* and 3 said"):
            session.resume(received)
    session.resume(2)
    assert session.next() == (3, 0, 2)


def test_acknowledgements_go_with_what_is_said() -> None:
    session = Session[int]()
    for number in range(1, ACKNOWLEDGED + 1):
        assert not session.due
        session.receive(number, 0)
    assert session.due
    session.put(0)
    assert session.next() == (1, ACKNOWLEDGED, 0)
    assert not session.due
    assert session.owed == 0


class Forgets(Session[int]):
    """Takes what was written for received."""

    def resume(self, received: int) -> None:
        written = self._written
        super().resume(received)
        self._written = max(written, received)


class Repeats(Session[int]):
    """Takes the same message twice."""

    def receive(self, number: int, acknowledged: int) -> bool:
        return super().receive(number, acknowledged) or number > 0


class Skips(Session[int]):
    """Takes a message for one that came before when it is the first after a break."""

    def resume(self, received: int) -> None:
        super().resume(received)
        self.received += 1


class Deaf(Session[int]):
    """Never acknowledges by itself."""

    @property
    def due(self) -> bool:
        return False


BROKEN = [("say", 0, 5), ("write", 0, 5), ("hear", 1, 2), ("break", 0, 1)]


@pytest.mark.parametrize("make", [Forgets, Skips, Deaf])
def test_these_tests_can_fail(make: Make) -> None:
    told = [*BROKEN, ("say", 0, ACKNOWLEDGED + 3), ("say", 1, 4)]
    sides = talk(told)
    settle(sides)
    check(sides)

    def wrong() -> None:
        sides = talk(told, make)
        settle(sides)
        check(sides)

    with pytest.raises((AssertionError, ProtocolError)):
        wrong()


def test_a_repetition_would_be_seen() -> None:
    told = [("say", 0, 3), ("write", 0, 3), ("hear", 1, 3)]
    assert talk(told)[1].heard == [1, 2, 3]
    side = talk(told, Repeats)[1]
    side.coming.append((3, 0, 3))
    side.hear()
    assert side.heard == [1, 2, 3, 3]
