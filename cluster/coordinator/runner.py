"""Keeps an epoch running: forms a group, drives it, forms the next when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cluster.coordinator.adopt import left_behind
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS, drive, first_leaf
from cluster.coordinator.epoch import Progress, Recipe, crashed, open_epoch, places
from cluster.coordinator.members import Member, Members
from cluster.core.config import Limits
from cluster.core.errors import (
    EpochEnded,
    LaunchFailed,
    NodeLost,
    ProtocolError,
    Regrouped,
    SetupError,
    TandemError,
)
from cluster.core.ids import Epoch
from cluster.core.view import ServedModel
from cluster.membership.choice import choose
from cluster.membership.roster import DEAD_SECONDS, Node
from cluster.text.tokenizer import Tokenizer

FORMING_ATTEMPTS = 2
"""Before the first epoch runs: a port that was free a moment ago may be taken by now."""
PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts after an epoch has ended; the last one repeats."""
QUIET_SECONDS = 5.0
"""Without a request, after which a larger group may be formed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a group can serve."""

    kind: str
    """How its ranks split the model: "tensor", "pipeline", or either for one rank."""
    limits: Limits
    model: ServedModel


Fit = Callable[[Sequence[Member]], Fitting]
"""What machines can serve together; raises the SetupError that says why they can't."""


class Runner:
    """Owns the epochs of one coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        tokenizer: asyncio.Task[Tokenizer],
        members: Members,
        fit: Fit,
        recipe: Recipe,
        progress: Progress,
    ) -> None:
        """`tokenizer` is what the coordinator gets once it is loaded, and before it drives."""
        self._coordinator = coordinator
        self._tokenizer = tokenizer
        self._members = members
        self._fit = fit
        self._recipe = recipe
        self._progress = progress
        self._epoch = 0
        self._quiet_since: float | None = None
        self.started = asyncio.Event()
        """Set when the first epoch runs."""

    async def run(self) -> None:
        """Run epoch after epoch until cancelled. Raises the SetupError that keeps the first one
        from forming; later ones are tried again and again, and the log says why."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_between(), name="watch between epochs")
            try:
                await self._run()
            finally:
                watching.cancel()

    async def _run(self) -> None:
        failures = 0
        while True:
            nodes: Sequence[Node] = ()
            try:
                nodes, fitting = self._choose()
                await self._one_epoch(self._members.of(nodes), fitting)
            except* (EpochEnded, ProtocolError) as errors:
                failures = 0
                error = _known(errors)
                self._ended(error)
                if await crashed(error, self._members.of(nodes)):
                    self._coordinator.crashed()
            except* SetupError as errors:
                failures += 1
                error = _known(errors)
                again = isinstance(error, LaunchFailed) and failures < FORMING_ATTEMPTS
                if not self.started.is_set() and not again:
                    raise error from None
                self._ended(error)
            await self._pause(PAUSES[min(failures, len(PAUSES) - 1)])

    def _choose(self) -> tuple[Sequence[Node], Fitting]:
        """The next group; raises the SetupError that says why there is none."""
        return choose(self._members.usable(), lambda group: self._fit(self._members.of(group)))

    async def _one_epoch(self, members: Sequence[Member], fitting: Fitting) -> None:
        """Form a group and drive it until it ends, which raises."""
        coordinator = self._coordinator
        if not self.started.is_set():
            coordinator.waiting_for("loading the model")
        first = not self._epoch
        left = await left_behind(members, self._recipe) if first else []
        adopt = bool(left) and {place.member for place in left} == set(members)
        if adopt:
            self._epoch, group = left[0].spec.epoch, left
        else:
            self._epoch += 1
            group = await places(Epoch(self._epoch), members, fitting.kind, self._recipe)
        async with open_epoch(
            group, self._recipe, self._progress, self._members.failed, adopt=adopt
        ) as formed:
            coordinator.tokenizer = await self._tokenizer
            coordinator.limits, coordinator.model = fitting.limits, fitting.model
            coordinator.group = formed
            self._members.roster.worked([member.id for member in members])
            self.started.set()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._watch_members(members), name="watch members")
                    await drive(
                        coordinator,
                        formed.epoch,
                        formed.ranks,
                        trimmable=formed.trimmable,
                        disk_bytes=formed.disk_bytes,
                    )
            finally:
                coordinator.group = None

    async def _watch_members(self, members: Sequence[Member]) -> None:
        """End the epoch when a machine of it is gone or to be free, or a better group can be
        had and nobody is served."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            lost = self._members.lost(members)
            # A machine whose steps advance is not gone, whatever its agent does (invariant 7).
            if lost and self._coordinator.silent_for() > DEAD_SECONDS:
                raise NodeLost(f"{', '.join(lost)} gave no sign of life")
            if any(node.draining for node in self._members.entries(members)):
                raise Regrouped("a machine is to be free")
            if self._quiet() and self._larger(members):
                raise Regrouped("more machines are here")

    def _quiet(self) -> bool:
        """True when there has been no request for a while."""
        now = self._coordinator.clock.now()
        if self._coordinator.journal:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        return self._quiet_since is not None and now - self._quiet_since >= QUIET_SECONDS

    def _larger(self, members: Sequence[Member]) -> bool:
        """True when the next group would have more ranks than this one."""
        try:
            nodes, _ = self._choose()
        except SetupError:
            return False
        return sum(node.ranks for node in nodes) > sum(member.ranks for member in members)

    async def _watch_between(self) -> None:
        """Deadlines of requests that wait for an epoch."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._coordinator.scheduler is None:
                self._coordinator.look()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until a machine comes or goes."""
        self._members.changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._members.changed.wait()
        except TimeoutError:
            pass

    def _ended(self, error: TandemError) -> None:
        log.warning("the epoch ended", epoch=self._epoch, reason=str(error))
        self._coordinator.waiting_for(f"forming a new group: {error}")


def _known(errors: BaseExceptionGroup[TandemError]) -> TandemError:
    """The first real error of a group: a TandemError, as the group's type says."""
    error = first_leaf(errors)
    assert isinstance(error, TandemError)
    return error
