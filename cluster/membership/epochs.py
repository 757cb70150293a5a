"""One epoch after the other: on which machines the next one runs, when it is over, and how long
to wait before another.

Whoever runs epochs asks: `next`, then `begun`, `look` now and then, and at the end `ended` or
`failed`. Reads no clock; every time is in seconds on the coordinator's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from cluster.core.errors import (
    EngineCrashed,
    EpochEnded,
    LaunchFailed,
    NodeLost,
    NotAuthorized,
    ProtocolError,
    Regrouped,
    SetupError,
)
from cluster.membership.choice import Merit, choose
from cluster.membership.roster import DEAD_SECONDS, Node

FORMING_ATTEMPTS = 2
"""Before the first epoch runs: a port that was free a moment ago may be taken by now."""
PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts after an epoch has ended; the last one repeats."""
QUIET_SECONDS = 5.0
"""Without a request, after which a larger group may be formed."""

Fitting = TypeVar("Fitting")
"""What a group can serve; nothing here looks at it."""


class Places(Protocol):
    """The machines that a group may use: a Roster, or a part of one."""

    def usable(self, now: float) -> list[Node]:
        """See Roster."""
        ...

    def gone(self, node_ids: Collection[str], now: float) -> list[str]:
        """See Roster."""
        ...

    def find(self, node_id: str) -> Node | None:
        """See Roster."""
        ...

    def worked(self, node_ids: Collection[str]) -> None:
        """See Roster."""
        ...


class Numbers:
    """Numbers of epochs, none of them twice: groups that run side by side share them."""

    def __init__(self) -> None:
        self._latest = 0

    def next(self) -> int:
        """One more than any before."""
        self._latest += 1
        return self._latest

    def taken(self, number: int) -> None:
        """An epoch has this one already."""
        self._latest = max(self._latest, number)


class Epochs(Generic[Fitting]):
    """The epochs of one coordinator."""

    def __init__(
        self,
        roster: Places,
        fit: Callable[[Sequence[Node]], Fitting],
        merit: Callable[[Fitting], Merit] = lambda _: Merit(),
        numbers: Numbers | None = None,
    ) -> None:
        """`fit` says what machines can serve together, or raises the SetupError that says why
        they can't; `merit` says how good that is."""
        self._roster = roster
        self._fit = fit
        self._merit = merit
        self._numbers = numbers or Numbers()
        self._nodes: Sequence[Node] = ()
        """Those of the latest epoch."""
        self._running = False
        """The latest epoch has begun."""
        self._failures = 0
        """Attempts to form a group, since an epoch ran."""
        self._quiet_since: float | None = None
        self.asked = False
        """A person wants a larger group, if there can be one, now and not in a quiet moment."""
        self.number = 0
        """Of the latest epoch that was tried."""
        self.attempts = 0
        """How many were tried."""
        self.started = False
        """An epoch has run."""

    @property
    def pause(self) -> float:
        """Seconds to wait now before the next attempt, unless machines come or go."""
        return PAUSES[min(self._failures, len(PAUSES) - 1)]

    def next(self, now: float) -> tuple[list[Node], Fitting]:
        """The machines of the next epoch, in the order of their ranks, and what they can serve.
        Raises the SetupError that says why there are none."""
        nodes, fitting = choose(self._roster.usable(now), self._fit, self._merit)
        self._nodes, self._running = nodes, False
        self.number = self._numbers.next()
        self.attempts += 1
        return nodes, fitting

    def adopted(self, number: int) -> None:
        """The epoch that was tried is that of engines which an earlier coordinator has left."""
        self.number = number
        self._numbers.taken(number)

    def begun(self) -> None:
        """The engines of the epoch have come up."""
        self.started = self._running = True
        self._roster.worked([node.id for node in self._nodes])

    def look(self, now: float, *, silent: float, idle: bool) -> None:
        """Raise NodeLost or Regrouped when the epoch that runs should end: a machine of it is
        gone or to be free, or a larger group can be had and nobody is served, or it was asked for.

        `silent` are the seconds since a step was answered or the epoch began; `idle` says that
        there is no request.
        """
        ids = [node.id for node in self._nodes]
        lost = set(self._roster.gone(ids, now))
        # A machine whose steps advance is not gone, whatever its agent does (invariant 7).
        if lost and silent > DEAD_SECONDS:
            names = ", ".join(node.name for node in self._nodes if node.id in lost)
            raise NodeLost(f"{names} gave no sign of life")
        if any(node.draining for node in map(self._roster.find, ids) if node is not None):
            raise Regrouped("a machine is to be free")
        asked, self.asked = self.asked, False
        if (self._quiet(now, idle) or asked) and self._larger(now):
            raise Regrouped("more machines are here")

    def ended(self, error: EpochEnded | ProtocolError) -> bool:
        """An epoch is over, or its engines were gone before it could begin. True when that may
        have been the doing of a request: it had begun, and an engine failed by itself. Not if one
        of the machines is gone: then the engines of its neighbours fail too, so they have to be
        asked.

        Raises NotAuthorized as it is: a newer coordinator has the engines, and must not have to
        fight for them.
        """
        if isinstance(error, NotAuthorized):
            raise error from None
        self._failures = 0 if self._running else self._failures + 1
        alone = type(error) is EpochEnded or isinstance(error, EngineCrashed | ProtocolError)
        return self._running and alone

    def failed(self, error: SetupError, *, others: bool = False) -> None:
        """No group could be formed. Raises `error` when it is no use to try again: before the
        first epoch a person is there to read it. Not with `others`: then another group of the
        model runs, or has run, and would end with this one."""
        self._failures += 1
        again = isinstance(error, LaunchFailed) and self._failures < FORMING_ATTEMPTS
        if not (self.started or others or again):
            raise error from None

    def _quiet(self, now: float, idle: bool) -> bool:
        """True when there has been no request for a while."""
        if not idle:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        return self._quiet_since is not None and now - self._quiet_since >= QUIET_SECONDS

    def _larger(self, now: float) -> bool:
        """True when the next group would have more ranks than this one."""
        try:
            nodes, _ = choose(self._roster.usable(now), self._fit, self._merit)
        except SetupError:
            return False
        return _ranks(nodes) > _ranks(self._nodes)


def _ranks(nodes: Sequence[Node]) -> int:
    return sum(node.ranks for node in nodes)
