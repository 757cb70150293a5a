"""All models of one server: loads and unloads them as `membership/fleet.py` decides."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import structlog

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS, first_leaf
from cluster.coordinator.epoch import Progress
from cluster.coordinator.machines import Machines
from cluster.coordinator.members import Members
from cluster.coordinator.overview import (
    cluster_view,
    group_view,
    metrics_text,
    model_view,
    numbered,
)
from cluster.coordinator.picture import request_views
from cluster.coordinator.placements import placement_view
from cluster.coordinator.room import Site, fittings
from cluster.coordinator.runner import Runner
from cluster.coordinator.served import Offer, Served
from cluster.coordinator.share import Shares
from cluster.core.clock import Clock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    BadConfiguration,
    ModelDoesNotFit,
    NotReady,
    SetupError,
)
from cluster.core.facts import Survey
from cluster.core.ids import RequestId
from cluster.core.view import (
    ClusterView,
    Health,
    MemberView,
    ModelView,
    PlacementView,
    RequestView,
    Sample,
)
from cluster.membership.fleet import (
    RETRY_SECONDS,
    Hold,
    Known,
    Load,
    Order,
    Refuse,
    Release,
    State,
    Unload,
)
from cluster.membership.fleet import Fleet as Decisions

log = structlog.get_logger()


class Fleet:
    """The models of a server. Implements Fleet of api/serving.py."""

    def __init__(
        self,
        offers: Sequence[Offer],
        *,
        limits: Limits,
        pacing: Pacing,
        clock: Clock,
        replicas: int = 1,
        keep_alive: float | None = None,
        pinned: Collection[str] = (),
    ) -> None:
        """The first of `offers` is loaded at the start and answers requests that name none; the
        others are loaded when they are asked for, and unloaded after `keep_alive` seconds without
        a request (None: never). Raises BadConfiguration for a name that is there twice, or a
        `pinned` one that is not."""
        self.clock = clock
        self.keep_alive = keep_alive
        self.started = asyncio.Event()
        """Set when the first model is loaded."""
        self._changed = asyncio.Event()
        self._models: dict[str, Served] = {}
        for offer in offers:
            if offer.model.id in self._models:
                raise BadConfiguration(f"--model {offer.model.id} is there twice")
            groups = [
                Coordinator(offer.model, limits=limits, pacing=pacing, clock=clock)
                for _ in range(replicas)
            ]
            served = Served(offer, groups, self._check, self._changed.set)
            self._models[offer.model.id] = served
        self.default = next(iter(self._models.values()))
        if unknown := [name for name in pinned if name not in self._models]:
            raise BadConfiguration(
                f"--pin {unknown[0]}: give the name of a model of --model or --models-dir"
            )
        self._decisions = Decisions(
            (
                Known(name, None if served is self.default else keep_alive, name in pinned)
                for name, served in self._models.items()
            ),
            self._room,
        )
        for served in self:
            if served is not self.default:
                served.rest()
        self._shares: Shares | None = None
        """None until the machines are gathered."""
        self._sites: dict[str, list[Site]] = {}
        self._runners: dict[str, list[Runner]] = {}
        """Of models that are loaded, or being loaded."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Each loads a model and keeps it there."""

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    # For the API

    def find(self, model: str | None) -> Served:
        """The model of that name, or the first; raises ModelNotFound. May be called in a
        thread."""
        return self.default if model is None else self._models[self._decisions[model].id]

    def models(self) -> tuple[ModelView, ...]:
        """All that may be asked for."""
        now = self.clock.now()
        return tuple(
            model_view(
                served,
                self._decisions[served.id],
                now,
                default=served is self.default,
                kinds=[site.share.kind for site in self._sites.get(served.id, ())],
            )
            for served in self
        )

    def load(self, model: str, *, pin: bool | None = None) -> None:
        """Load it, unless it is there, and pin it or take the pin off it; raises ModelNotFound,
        ModelDoesNotFit or NotReady."""
        self._check(self.find(model).id)
        self._decisions.load(model, self.clock.now(), pin=pin)
        self._changed.set()

    def unload(self, model: str, *, pinned: bool = True) -> None:
        """Unload it, once it has no request; one that is pinned only with `pinned`, which takes
        the pin off it. Raises ModelNotFound."""
        self._decisions.unload(model, pinned=pinned)
        self._changed.set()

    def keep(self, model: str, seconds: float) -> None:
        """Until it is unloaded, it is kept for another time than what the server was started with
        (infinite: for ever); a model that stays, stays. Raises ModelNotFound."""
        if self.find(model) is not self.default:
            self._decisions[model].keep_alive = None if seconds == math.inf else seconds

    def placement(self, model: str) -> PlacementView:
        """Where it would go; raises ModelNotFound, or NotReady."""
        served = self.find(model)
        shares = self._ready()
        pinned = {known.id for known in self._decisions if known.pinned}
        gone = [each.id for each in self if each.id not in pinned]
        first = self._sites[served.id][0]
        return placement_view(served.id, first, shares, gone, self.clock.now())

    def cancel(self, request_id: RequestId) -> bool:
        """See Coordinator."""
        return any(served.cancel(request_id) for served in self)

    def health(self) -> Health:
        """Of the first model; one that is not loaded will be when it is asked for."""
        health = self.default.health()
        known = self._decisions[self.default.id]
        if known.state is not State.FAILED and self.default.loading:
            return Health(True, health.reason)
        return health

    def view(self, model: str | None = None, replica: int | None = None) -> ClusterView:
        """Of one group: see ClusterView. Raises ModelNotFound or NotFound."""
        if model is None and replica is None:
            return cluster_view(self.default, list(self))
        served, number = self.find(model), replica or 0
        served.group(number)
        return group_view(served, number, list(self))

    def requests(self) -> tuple[RequestView, ...]:
        """Of all models and groups."""
        every = numbered(self)
        return tuple(view for number, group in every for view in request_views(group, number))

    def samples(
        self, after: int, model: str | None = None, replica: int = 0
    ) -> tuple[float, list[Sample]]:
        """Of one group; see Coordinator. Raises ModelNotFound or NotFound."""
        return self.find(model).group(replica).samples(after)

    async def facts(self) -> Survey:
        """See Crew."""
        return await self.default.groups[0].facts()

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """See Crew."""
        return self.default.groups[0].drain(name, draining=draining)

    def metrics(self) -> bytes:
        """Of all groups, in Prometheus's text format."""
        return metrics_text(list(self))

    # For whoever runs it

    def waiting_for(self, what: str) -> None:
        """Before machines are there: what is being waited for, in a few words."""
        self.default.waiting_for(what)

    def close(self) -> None:
        """Take no more requests, and end every live one."""
        for served in self:
            for group in served.groups:
                group.close()

    async def run(self, members: Members, progress: Progress) -> None:
        """Run models on these machines until cancelled; `progress` is told how far the first
        one is. Raises what the first model can't be loaded for, and NotAuthorized when a newer
        coordinator has taken engines."""
        self._shares = shares = Shares(members)
        machines = Machines(shares, self._runners.values, self.clock)
        for served in self:
            count = len(served.groups)
            held = [shares.new(served.id, i, count) for i in range(count)]
            self._sites[served.id] = [Site(each, served.offer.forming(each.paths)) for each in held]
            for group in served.groups:
                group.crew = machines
        async with asyncio.TaskGroup() as tasks:
            self._decisions.begun(self.default.id, self.clock.now())
            self._start(self.default, tasks, progress)
            while True:
                self._changed.clear()
                self._look(tasks)
                with suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_SECONDS):
                        await self._changed.wait()

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        uses = {served.id: served.use() for served in self}
        orders = self._decisions.look(self.clock.now(), uses)
        for order in orders:
            self._follow(order, tasks)
        for served in self:
            known = self._decisions[served.id]
            if served.use() and not known.here:
                served.waiting_for(f"loading {served.id}: waiting for room")
            for group in served.groups:
                if group.resting:
                    group.look()

    def _follow(self, order: Order, tasks: asyncio.TaskGroup) -> None:
        served = self._models[order.id]
        match order:
            case Load():
                log.info("loading a model", model=order.id)
                self._start(served, tasks, _nobody)
            case Unload(_, why):
                log.info("unloading a model", model=order.id, reason=why)
                tasks.create_task(self._stop(served), name=f"unload {order.id}")
            case Hold():
                for group in served.groups:
                    group.live.held = True
            case Release():
                for group in served.groups:
                    group.live.release()
            case Refuse(_, error):
                served.fail(ModelDoesNotFit(f"{order.id} can't be placed: {error}"))

    # Loading

    def _start(self, served: Served, tasks: asyncio.TaskGroup, progress: Progress) -> None:
        served.waiting_for(f"loading {served.id}")
        self._tasks[served.id] = tasks.create_task(
            self._serve(served, progress), name=f"serve {served.id}"
        )

    async def _serve(self, served: Served, progress: Progress) -> None:
        """Load a model and keep its groups running until cancelled, or it can't be loaded: then
        its requests are told, and where a person waits for the first one, it is raised."""
        error: SetupError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tokenizer = tasks.create_task(
                    asyncio.to_thread(lambda: served.tokenizer), name="load the tokenizer"
                )
                runners = [
                    Runner(
                        group,
                        tokenizer,
                        site.share,
                        site.share.paths,
                        site.forms.fit,
                        served.offer.recipe_of(site.share.replica),
                        progress if site.share.replica == 0 else _nobody,
                        site.forms.refusal,
                        changed=served.move,
                    )
                    for group, site in zip(served.groups, self._sites[served.id], strict=True)
                ]
                self._runners[served.id] = runners
                for runner in runners:
                    tasks.create_task(runner.run(), name=f"epochs of {served.id}")
                    tasks.create_task(self._tell(served, runner), name="tell when it is loaded")
        except* SetupError as errors:
            first = first_leaf(errors)
            assert isinstance(first, SetupError)
            error = first
        finally:
            self._runners.pop(served.id, None)
        if error is not None:
            self._failed(served, error)

    async def _tell(self, served: Served, runner: Runner) -> None:
        await runner.started.wait()
        self._decisions.loaded(served.id, self.clock.now())
        if served is self.default:
            self.started.set()
        self._changed.set()

    def _failed(self, served: Served, error: SetupError) -> None:
        if not self.started.is_set():
            raise error
        log.warning("a model could not be loaded", model=served.id, reason=str(error))
        self._decisions.unloaded(served.id, self.clock.now(), str(error))
        served.rest()
        told = f"{served.id} could not be loaded: {error}"
        served.fail(NotReady(told, retry_after=RETRY_SECONDS))
        self._changed.set()

    async def _stop(self, served: Served) -> None:
        task = self._tasks.pop(served.id)
        task.cancel()
        await asyncio.wait([task])
        served.rest()
        known = self._decisions[served.id]
        if known.state is State.UNLOADING:
            self._decisions.unloaded(served.id, self.clock.now())
        if served is not self.default:
            known.keep_alive = self.keep_alive
        self._changed.set()

    # Room

    def _check(self, model: str) -> None:
        """What keeps a request for it from being taken; raises ModelDoesNotFit or NotReady. What
        it would be served with is noted, for what is decided of its requests before it is there."""
        first = model == self.default.id and not self.started.is_set()
        if self._shares is None or first:
            self.default.groups[0].check_accepting()
            if first:
                return
        self._decisions.check(model, self.clock.now())

    def _room(self, model: str, gone: Collection[str]) -> SetupError | None:
        self._ready()
        served = self._models[model]
        others = (known for known in self._decisions if known.id != model)
        try:
            found = fittings(self._sites[model], others, gone, self.clock.now())
        except SetupError as error:
            return error
        if all(group.resting for group in served.groups):
            for group, fitting in zip(served.groups, found, strict=True):
                group.limits, group.model = fitting.limits, fitting.model
        return None

    def _ready(self) -> Shares:
        if self._shares is None:
            raise NotReady(f"not ready: {self.default.health().reason}", retry_after=2)
        return self._shares


def _nobody(_: object) -> None:
    """Nobody is told."""
