"""Keeps an epoch running: forms a group, drives it, forms the next when it ends.

What is decided, is decided in `cluster/membership/epochs.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cluster.coordinator.adopt import clear, left_behind, whole
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS, drive, first_leaf
from cluster.coordinator.epoch import EngineState, Progress, Recipe, all_answer, open_epoch, places
from cluster.coordinator.loading import loading_line
from cluster.coordinator.members import Member, Members
from cluster.coordinator.paths import Paths
from cluster.coordinator.sources import find_sources
from cluster.coordinator.survey import survey
from cluster.core.config import Limits
from cluster.core.errors import EpochEnded, NotFound, NotReady, ProtocolError, SetupError
from cluster.core.facts import Pair, Survey
from cluster.core.ids import Epoch
from cluster.core.view import MemberView, ServedModel
from cluster.membership.choice import Merit, choose
from cluster.membership.epochs import Epochs
from cluster.membership.roster import Node
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
        members: Members,
        paths: Paths,
        fit: Fit,
        recipe: Recipe,
        progress: Progress,
        refusal: Refusal = lambda _, error: error,
    ) -> None:
        """`tokenizer` is what the coordinator gets once it is loaded, and before it drives;
        `paths` are what `fit` goes by too."""
        self._coordinator = coordinator
        self._tokenizer = tokenizer
        self._members = members
        self._paths = paths
        self._fit = fit
        self._refusal = refusal
        self._epochs = Epochs(members.roster, self._fitting, lambda fitting: fitting.merit)
        self._recipe = recipe
        self._progress = progress
        coordinator.crew = self
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

    async def _run(self) -> None:
        epochs = self._epochs
        while True:
            members: list[Member] = []
            self._members.changed.clear()
            try:
                await self._paths.probe(await self._members.answering())
                nodes, fitting = await self._next()
                members = self._members.of(nodes)
                await self._one_epoch(members, fitting)
            except* (EpochEnded, ProtocolError) as errors:
                error = first_leaf(errors)
                assert isinstance(error, EpochEnded | ProtocolError)
                self._ended(error)
                if epochs.ended(error) and await all_answer(members):
                    self._coordinator.crashed()
            except* SetupError as errors:
                failure = first_leaf(errors)
                assert isinstance(failure, SetupError)
                if members and self._paths.rdma(members, self._paths.ring(members)):
                    self._paths.rdma_failed = True
                epochs.failed(failure)
                self._ended(failure)
            await self._pause(epochs.pause)

    # For the API: implements Crew

    def view(self) -> tuple[MemberView, ...]:
        """See Crew."""
        return tuple(map(self._member_view, self._members.roster.computing))

    def links(self) -> tuple[Pair, ...]:
        """See Crew."""
        return self._paths.pairs(self._members.of(self._members.roster.computing))

    async def facts(self) -> Survey:
        """See Crew."""
        told = await survey(self._members.of(self._members.roster))
        here = {machine.agent_address for machine in told}
        away = (each for each in self._members.turned_away if each.agent_address not in here)
        return Survey(self._members.address, (*told, *away))

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """See Crew."""
        node = self._members.named(name)
        if node is None:
            here = ", ".join(each.name for each in self._members.roster.computing)
            raise NotFound(f"no machine {name[:100]!r} is here: there are {here}", param="node")
        usable = self._members.roster.usable(self._coordinator.clock.now())
        if draining:
            try:
                choose([each for each in usable if each is not node], self._fitting)
            except SetupError as error:
                raise NotReady(
                    f"without {node.name} nothing could be served ({error}): add a machine first",
                    retry_after=30,
                ) from error
        node.draining = draining
        self._epochs.asked = not draining
        self._members.changed.set()
        return self._member_view(node)

    def _member_view(self, node: Node) -> MemberView:
        group = self._coordinator.group
        ranks = sum(engine.member.id == node.id for engine in group.engines) if group else 0
        presence = node.presence(self._coordinator.clock.now())
        return MemberView(node.id, node.name, presence, node.draining, ranks)

    # Forming

    def _fitting(self, group: Sequence[Node]) -> Fitting:
        return self._fit(self._members.of(group))

    async def _next(self) -> tuple[Sequence[Node], Fitting]:
        """The next group. Raises the SetupError that says why there is none."""
        now = self._coordinator.clock.now()
        try:
            return self._epochs.next(now)
        except SetupError as error:
            here, largest = self._members.of(self._members.roster.usable(now)), error
        raise await asyncio.to_thread(self._refusal, here, largest)

    async def _one_epoch(self, members: Sequence[Member], fitting: Fitting) -> None:
        """Form a group and drive it until it ends, which raises."""
        coordinator = self._coordinator
        if not self.started.is_set():
            coordinator.waiting_for("loading the model")
        epochs = self._epochs
        left = await left_behind(members, self._recipe.incarnation)
        group = whole(left, self._recipe) if epochs.number == 1 else []
        adopt = bool(group) and {place.member for place in group} == set(members)
        adopt = adopt and group[0].spec.plan.layers == fitting.layers
        if adopt:
            epochs.number = group[0].spec.epoch
        else:
            await clear(left, self._recipe.incarnation)
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

    def _tell(self, engines: Sequence[EngineState]) -> None:
        """How far the engines have come, to the terminal and to whoever asks."""
        self._progress(engines)
        if self._coordinator.scheduler is None:
            self._coordinator.waiting_for(loading_line(engines))

    async def _watch_members(self) -> None:
        """End the epoch when its machines are no longer the right ones."""
        coordinator = self._coordinator
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._epochs.look(
                coordinator.clock.now(),
                silent=coordinator.silent_for(),
                idle=not coordinator.journal,
            )

    async def _probe_again(self, members: int) -> None:
        """While machines are here that the epoch does without: perhaps a cable was mended."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if len(self._members.roster.usable(self._coordinator.clock.now())) <= members:
                continue
            try:
                await self._paths.probe(await self._members.answering())
            except SetupError as error:
                log.warning("links could not be probed", reason=str(error))

    async def _watch_between(self) -> None:
        """Deadlines of requests that wait for an epoch."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._coordinator.scheduler is None:
                self._coordinator.look()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, unless a machine has come or gone since the attempt began, or does."""
        try:
            async with asyncio.timeout(seconds):
                await self._members.changed.wait()
        except TimeoutError:
            pass

    def _ended(self, error: BaseException) -> None:
        self._coordinator.explain(error)
        log.warning("the epoch ended", epoch=self._epochs.number, reason=str(error))
        self._coordinator.waiting_for(f"forming a new group: {error}")
