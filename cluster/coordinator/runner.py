"""Keeps an epoch running: forms a group, drives it, forms the next when it ends.

What is decided, is decided in `cluster/membership/epochs.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.coordinator.adopt import clear, left_behind, take_over
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS, drive, first_leaf
from cluster.coordinator.epoch import (
    EngineState,
    Place,
    Progress,
    Recipe,
    all_answer,
    open_epoch,
    places,
)
from cluster.coordinator.loading import loading_line
from cluster.coordinator.members import Member
from cluster.coordinator.paths import Paths
from cluster.coordinator.share import Share
from cluster.coordinator.sources import find_sources
from cluster.core.config import Limits
from cluster.core.errors import EpochEnded, ProtocolError, SetupError
from cluster.core.facts import Pair
from cluster.core.ids import Epoch
from cluster.core.view import ServedModel
from cluster.membership.choice import Merit, choose
from cluster.membership.epochs import Epochs
from cluster.membership.roster import Node
from cluster.placement.speed import Speed
from cluster.text.tokenizer import Tokenizer

PROBE_SECONDS = 15.0
"""Between two looks at the links of machines that are left out."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a group can serve."""

    kind: str
    """How its ranks split the model: "tensor", "pipeline", or either for one rank."""
    limits: Limits
    model: ServedModel
    layers: tuple[int, ...] = ()
    """As in ShardPlan."""
    merit: Merit = Merit()  # noqa: RUF009  (a tuple)
    """Beside other groups."""
    speed: Speed | None = None
    """A prediction; None where a chip is not known."""


Fit = Callable[[Sequence[Member]], Fitting]
"""What machines can serve together; raises the SetupError that says why they can't."""

Refusal = Callable[[Sequence[Member], SetupError], SetupError]
"""What to say where none of these machines can serve, of which the largest group raised that."""


class Runner:
    """Owns the epochs of one coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        tokenizer: asyncio.Task[Tokenizer],
        share: Share,
        paths: Paths,
        fit: Fit,
        recipe: Recipe,
        progress: Progress,
        refusal: Refusal = lambda _, error: error,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`tokenizer` is what the coordinator gets once it is loaded, and before it drives;
        `paths` are what `fit` goes by too; `changed` is called when an epoch has begun, and when
        it is known why one has ended."""
        self._coordinator = coordinator
        self._tokenizer = tokenizer
        self._share = share
        self._members = share.all.members
        self._paths = paths
        self._fit = fit
        self._refusal = refusal
        self._epochs = Epochs(
            share, self._fitting, lambda fitting: fitting.merit, share.all.numbers
        )
        self._recipe = recipe
        self._progress = progress
        self._changed = changed
        self.started = asyncio.Event()
        """Set when the first epoch runs."""

    async def run(self) -> None:
        """Run epoch after epoch until cancelled. Raises the SetupError that keeps the first one
        from forming; later ones are tried again and again, and the log says why. Raises
        NotAuthorized when a newer coordinator has taken the engines."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_between(), name="watch between epochs")
            try:
                await self._run()
            finally:
                watching.cancel()
                self._share.let_go()

    async def _run(self) -> None:
        epochs = self._epochs
        while True:
            members: list[Member] = []
            seen = self._members.changes.count
            try:
                usable = self._share.usable(self._coordinator.clock.now())
                await self._paths.probe(await self._members.answering(usable))
                nodes, fitting = await self._next()
                members = self._members.of(nodes)
                self._share.take(members, fitting.kind, fitting.model.rank_bytes)
                await self._one_epoch(members, fitting)
            except* (EpochEnded, ProtocolError) as errors:
                error = first_leaf(errors)
                assert isinstance(error, EpochEnded | ProtocolError)
                self._ended(error)
                if epochs.ended(error) and await all_answer(members):
                    self._coordinator.live.blame()
            except* SetupError as errors:
                failure = first_leaf(errors)
                assert isinstance(failure, SetupError)
                if members and self._paths.rdma(members, self._paths.ring(members)):
                    self._paths.rdma_failed = True
                epochs.failed(failure, others=self._share.others_ran)
                self._ended(failure)
            self._coordinator.settled = True
            self._changed()
            await self._pause(epochs.pause, seen)

    # For the machines' view

    def does_without(self, node: Node) -> SetupError | None:
        """What keeps its model from being served by this group when a machine is gone."""
        usable = self._share.usable(self._coordinator.clock.now())
        try:
            choose([each for each in usable if each.id != node.id], self._fitting)
        except SetupError as error:
            return error
        return None

    def regroup(self) -> None:
        """A larger group is wanted now, if there can be one."""
        self._epochs.asked = True

    def links(self) -> tuple[Pair, ...]:
        """See Crew."""
        return self._paths.pairs(self._members.of(self._members.roster.computing))

    def held_on(self, node_id: str) -> int:
        """Bytes that engines of its epoch take of a machine."""
        group = self._coordinator.group
        return group.held_on(node_id) if group is not None else 0

    # Forming

    def _fitting(self, group: Sequence[Node]) -> Fitting:
        return self._fit(self._share.left_of(self._members.of(group)))

    async def _next(self) -> tuple[Sequence[Node], Fitting]:
        """The next group. Raises the SetupError that says why there is none."""
        now = self._coordinator.clock.now()
        try:
            return self._epochs.next(now)
        except SetupError as error:
            here, largest = self._members.of(self._share.usable(now)), error
        left = self._share.left_of(here)
        raise await asyncio.to_thread(self._refusal, left, largest)

    async def _one_epoch(self, members: Sequence[Member], fitting: Fitting) -> None:
        """Form a group and drive it until it ends, which raises."""
        coordinator = self._coordinator
        if not self.started.is_set():
            coordinator.waiting_for(f"loading {self._name}")
        epochs = self._epochs
        group = await self._left_behind(members, fitting.layers)
        adopt = bool(group)
        if adopt:
            epochs.adopted(group[0].spec.epoch)
        else:
            # Not those that are silent: requests wait, and would wait for their answer.
            alive = self._members.of(self._members.roster.alive(coordinator.clock.now()))
            sources = await find_sources(alive, self._recipe.model, self._recipe.digest)
            group = await places(
                Epoch(epochs.number),
                members,
                (fitting.kind, fitting.layers),
                self._recipe,
                self._paths,
                sources,
            )
        self._share.secret = group[0].spec.secret
        try:
            async with open_epoch(
                group,
                self._recipe,
                self._tell,
                self._members.failed,
                coordinator.silent_for,
                adopt=adopt,
            ) as formed:
                coordinator.tokenizer = await self._tokenizer
                coordinator.limits, coordinator.model = fitting.limits, fitting.model
                coordinator.group = formed
                epochs.begun()
                self.started.set()
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._tell_begun(), name="tell of the epoch")
                        tasks.create_task(self._watch_members(), name="watch members")
                        tasks.create_task(self._probe_again(len(members)), name="probe again")
                        await drive(
                            coordinator,
                            formed.epoch,
                            formed.ranks,
                            trimmable=formed.trimmable,
                            disk_bytes=formed.disk_bytes,
                        )
                finally:
                    coordinator.group = None
        finally:
            self._share.secret = ""

    async def _left_behind(self, members: Sequence[Member], layers: tuple[int, ...]) -> list[Place]:
        """A whole group of this model that an earlier coordinator has left on these machines, if
        there is one, which nobody else takes from here on. What else was left is ended, but for
        what another group of the model may still go on with."""
        recipe = self._recipe
        async with self._share.all.looking:
            found = await left_behind(members, recipe.incarnation)
            group, rest = take_over(found, members, layers, recipe, self._share)
            await clear(rest, recipe.incarnation)
        return group

    @property
    def _name(self) -> str:
        """The model, in what is said of it while it loads."""
        coordinator = self._coordinator
        return coordinator.model.id if coordinator.resting else "the model"

    async def _tell_begun(self) -> None:
        """Once the scheduler is there, which `drive` makes before it waits for anything."""
        self._changed()

    def _tell(self, engines: Sequence[EngineState]) -> None:
        """How far the engines have come, to the terminal and to whoever asks."""
        self._progress(engines)
        if self._coordinator.scheduler is None:
            self._coordinator.waiting_for(loading_line(engines, self._name))

    async def _watch_members(self) -> None:
        """End the epoch when its machines are no longer the right ones."""
        coordinator = self._coordinator
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._epochs.look(
                coordinator.clock.now(),
                silent=coordinator.silent_for(),
                idle=not coordinator.live.journal,
            )

    async def _probe_again(self, members: int) -> None:
        """While machines are here that the epoch does without: perhaps a cable was mended."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            usable = self._share.usable(self._coordinator.clock.now())
            if len(usable) <= members:
                continue
            try:
                await self._paths.probe(await self._members.answering(usable))
            except SetupError as error:
                log.warning("links could not be probed", reason=str(error))

    async def _watch_between(self) -> None:
        """Deadlines of requests that wait for an epoch."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._coordinator.scheduler is None:
                self._coordinator.look()

    async def _pause(self, seconds: float, seen: int) -> None:
        """Wait so long, unless a machine has come or gone since the attempt began, or does; `seen`
        were the changes then."""
        try:
            async with asyncio.timeout(seconds):
                await self._members.changes.beyond(seen)
        except TimeoutError:
            pass

    @property
    def _group(self) -> dict[str, Any]:
        """Which group's epoch it is, in the log."""
        share = self._share
        told: dict[str, Any] = {"epoch": self._epochs.number, "model": share.model}
        return {**told, "replica": share.replica} if share.replicas > 1 else told

    def _ended(self, error: BaseException) -> None:
        self._coordinator.explain(error)
        log.warning("the epoch ended", reason=str(error), **self._group)
        self._coordinator.waiting_for(f"forming a new group: {error}")
