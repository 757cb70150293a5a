"""What an engine owes its coordinator, without I/O: whom it listens to, and which step comes next.

The engine process uses it (wire/engine_server.py, engine/loop.py), and so can a simulation. That
the caller knows the epoch's secret is checked before any of this.
"""

from __future__ import annotations

from typing import Generic

from cluster.core.cluster import Hello
from cluster.core.errors import NotAuthorized, ProtocolError, StepRefused, VersionMismatch
from cluster.core.ids import Epoch
from cluster.core.plan import Step
from cluster.core.session import Body, Session

PENDING = 4
"""Steps that were taken and not answered yet; one more is refused."""


class Fence(Generic[Body]):
    """Lets in one coordinator at a time: the latest. A session is as long as its incarnation."""

    def __init__(self) -> None:
        self.incarnation = 0
        """Of the coordinator that was let in last; 0 before the first."""
        self.session: Session[Body] = Session()
        """With that one."""

    def admit(self, mine: Hello, theirs: Hello) -> bool:
        """A coordinator says `theirs` on a new stream, and `mine` is what the engine says.

        True when a session begins: what an earlier coordinator has ordered must be dropped now.
        False when the session goes on on this stream, which takes the place of the one before.
        Raises VersionMismatch with every difference by name, NotAuthorized for a coordinator
        that was replaced, or ProtocolError when there is no such session to go on with; nothing
        has changed then.
        """
        if wrong := mine.differences(theirs):
            raise VersionMismatch(f"engine of rank {mine.plan.rank}: " + "; ".join(wrong))
        if theirs.incarnation < self.incarnation:
            raise NotAuthorized(
                f"coordinator {theirs.incarnation} was replaced by {self.incarnation}"
            )
        if theirs.received is not None:
            if theirs.incarnation != self.incarnation:
                raise ProtocolError(f"there is no session of coordinator {theirs.incarnation}")
            self.session.resume(theirs.received)
            return False
        if theirs.incarnation == self.incarnation and self.session.received:
            raise ProtocolError(
                f"coordinator {theirs.incarnation} has a session already, in which "
                f"{self.session.received} messages came; it can only go on"
            )
        self.incarnation = theirs.incarnation
        self.session = Session()
        return True


class StepWindow:
    """Which step comes next, and how many are under way (invariants 2 and 3)."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._seq = 0
        """Of the step taken last in this session."""
        self.taken = 0
        """Steps that were taken in this epoch, in all sessions."""
        self.answered = 0
        """How many of them are done."""
        self._begun = 0
        """How many of them were of earlier sessions."""

    def take(self, step: Step) -> None:
        """Raises StepRefused when the epoch or seq of `step` is not the one expected, or when
        PENDING steps of this session are under way; nothing has changed then."""
        if step.epoch != self._epoch:
            raise StepRefused(f"step {step.seq} of epoch {step.epoch} in epoch {self._epoch}")
        if step.seq != self._seq + 1:
            raise StepRefused(f"step {step.seq} after step {self._seq}")
        if self.taken - max(self.answered, self._begun) >= PENDING:
            raise StepRefused(f"step {step.seq} while {PENDING} steps are not done")
        self._seq += 1
        self.taken += 1

    def answer(self) -> bool:
        """The oldest step that is under way is done. False when it is of an earlier session,
        and nobody wants its result."""
        self.answered += 1
        return self.answered > self._begun

    def reset(self) -> None:
        """A session begins: its first step is step 1."""
        self._seq = 0
        self._begun = self.taken
