"""The one that decides: takes requests, keeps their plan, hands out tokens.

Nothing here waits: `drive.py` does the sending and receiving. So a simulation can run it too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from cluster.coordinator.epoch import Group
from cluster.coordinator.generation import Generation
from cluster.coordinator.intake import request_of
from cluster.coordinator.journal import Entry
from cluster.coordinator.live import LiveRequests
from cluster.coordinator.meter import Meter
from cluster.coordinator.metrics import Exposition
from cluster.coordinator.picture import picture, request_views
from cluster.coordinator.steps import carried, record
from cluster.coordinator.straggler import Straggler
from cluster.coordinator.tally import Tally
from cluster.coordinator.trend import Load, Trend
from cluster.core.clock import Clock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    NotReady,
    ShuttingDown,
    StepOverdue,
    TandemError,
)
from cluster.core.facts import Pair, Survey
from cluster.core.ids import Epoch, RequestId
from cluster.core.plan import Step, StepResult
from cluster.core.request import Order
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.core.view import (
    ClusterView,
    EpochView,
    Health,
    MemberView,
    RequestView,
    Sample,
    ServedModel,
)
from cluster.scheduler.pace import Pace
from cluster.scheduler.scheduler import Scheduler
from cluster.text.tokenizer import Tokenizer

log = structlog.get_logger()


HISTORY = 32
"""Epochs that are remembered."""


class Crew(Protocol):
    """The machines of the cluster, as the API asks for them."""

    def view(self) -> tuple[MemberView, ...]: ...

    def links(self) -> tuple[Pair, ...]:
        """As in ClusterView."""
        ...

    async def facts(self) -> Survey:
        """Of every machine, which are asked now; takes seconds."""
        ...

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """A machine, by its id or host name, is to be free, or may be used again. Raises
        NotFound, or NotReady when nothing could be served without it."""
        ...


class Coordinator:
    """Serves one model. The API and whoever drives an epoch call it on the same loop."""

    def __init__(
        self,
        model: ServedModel,
        tokenizer: Tokenizer | None = None,
        *,
        limits: Limits,
        pacing: Pacing,
        clock: Clock,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self.limits = limits
        self.pacing = pacing
        self.clock = clock
        self.meter = Meter()
        self.tally = Tally()
        self.trend = Trend()
        self.live = LiveRequests(clock, self.tally, self._hosts)
        self.group: Group | None = None
        """The engines of the epoch that runs."""
        self.straggler = Straggler()
        """Among its ranks, or those of the latest."""
        self.crew: Crew | None = None
        """The machines; None until they are gathered."""
        self.history: deque[EpochView] = deque(maxlen=HISTORY)
        """Epochs that are over."""
        self.started = clock.now()
        self._down: float | None = None
        """Since when no epoch runs; None while one does, and before the first."""
        self._advanced = clock.now()
        """When the last step was answered, or the epoch began."""
        self._began = clock.now()
        self._paces: dict[int, Pace] = {}
        """What epochs have learned of the speed of so many ranks. Without it, one that is stuck
        in its first step would be waited for much longer than in any other."""
        self._waiting_for = "starting"
        self.resting = False
        """The model is not loaded, and will be for the requests that come: until then they wait
        as in a queue."""
        self.settled = True
        """It is known whether a request was to blame for the end of the latest epoch."""
        self._closing = False
        self._said_full = False
        self._exposition = Exposition(self)

    @property
    def scheduler(self) -> Scheduler | None:
        """The plan of the epoch that runs; None between epochs."""
        return self.live.scheduler

    # For the API

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's; raises NotReady until it is loaded."""
        if self._tokenizer is None:
            raise NotReady("not ready: loading the tokenizer", retry_after=2)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, loaded: Tokenizer) -> None:
        self._tokenizer = loaded

    def submit(self, order: Order, *, prefix: str = "chatcmpl") -> Generation:
        """Take a request. All that can be decided is decided now.

        Raises PromptTooLong, InvalidRequest, QueueFull, NotReady or ShuttingDown.
        """
        try:
            entry = self._take(order, prefix)
        except TandemError as error:
            self.tally.refused(error)
            raise
        return Generation(entry)

    def _take(self, order: Order, prefix: str) -> Entry:
        self.check_accepting()
        now = self.clock.now()
        request = request_of(order, self.model, self.limits, self.tokenizer, now, prefix)
        return self.live.enter(request, order, self.tokenizer, self.limits.requests)

    @property
    def full(self) -> bool:
        """It takes no more requests: as many wait as may."""
        return self.live.full(self.limits.requests)

    def check_accepting(self) -> None:
        """Raise NotReady or ShuttingDown when requests can't be taken now."""
        if self._closing:
            raise ShuttingDown("the server is stopping", retry_after=5)
        waits = self.resting or self._recovering(self.clock.now())
        if self.scheduler is None and not waits:
            raise NotReady(f"not ready: {self._waiting_for}", retry_after=2)

    def cancel(self, request_id: RequestId) -> bool:
        """End a request as its client's wish; False when none by this id runs."""
        entry = self.live.journal.get(request_id)
        if entry is None or entry.channel.finish is not None:
            return False
        self.live.cancel(request_id)
        return True

    def health(self) -> Health:
        """Healthy while steps advance or none are wanted."""
        now = self.clock.now()
        if self._closing:
            return Health(False, "stopping")
        if self.scheduler is None:
            recovering = self.resting or self._recovering(now)
            return Health(False, self._waiting_for, recovering=recovering)
        if self.scheduler.overdue(now):
            return Health(False, "a step is past its deadline")
        return Health(True, "serving")

    def view(self) -> ClusterView:
        """A picture of everything, for people."""
        return picture(self)

    def requests(self) -> tuple[RequestView, ...]:
        """All live requests, in the order in which they came."""
        return request_views(self)

    def samples(self, after: int) -> tuple[float, list[Sample]]:
        """(now, samples with higher numbers than `after`), in seconds since the start."""
        return self.clock.now() - self.started, self.trend.since(after)

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """See Crew."""
        if self.crew is None:
            raise NotReady(f"not ready: {self._waiting_for}", retry_after=2)
        return self.crew.drain(name, draining=draining)

    async def facts(self) -> Survey:
        """See Crew."""
        if self.crew is None:
            raise NotReady(f"not ready: {self._waiting_for}", retry_after=2)
        return await self.crew.facts()

    def metrics(self) -> bytes:
        """Everything that is counted, in Prometheus's text format."""
        return self._exposition.text()

    # For whoever runs it

    def waiting_for(self, what: str) -> None:
        """Between epochs: what is being waited for, in a few words."""
        self._waiting_for = what

    def begin(
        self,
        epoch: Epoch,
        *,
        trimmable: bool,
        shelf: Iterable[Shelved] = (),
        disk_bytes: int = 0,
    ) -> None:
        """An epoch begins, and all live requests go on in it (invariant 8). `shelf` is what
        every rank has on disk, where the files of one may take `disk_bytes` (0: no disk)."""
        scheduler = Scheduler(
            epoch,
            self.limits,
            self.pacing,
            trimmable=trimmable,
            end_ids=self.tokenizer.end_ids,
            shelf=shelf,
            disk_bytes=disk_bytes,
            pace=self._paces.get(self._world),
        )
        self.resting = False
        self.straggler = Straggler()
        self._advanced = self._began = self.clock.now()
        if self._down is not None:
            took = self._advanced - self._down
            self.tally.recovered(took, len(self.live.journal))
            if self.history:
                self.history[-1] = replace(self.history[-1], recovery_seconds=took)
            self._down = None
        self.live.begin(scheduler)

    def next(self) -> tuple[list[ShelfOrder], Step | None]:
        """What to send now: orders for the shelf, then a step."""
        assert self.scheduler is not None  # an epoch runs
        now = self.clock.now()
        step = self.scheduler.next_step(now)
        orders = self.scheduler.take_shelf_orders()
        return orders, self.live.tracer.planned(step, orders, now)

    def apply(self, result: StepResult, results: Sequence[StepResult]) -> None:
        """Every rank has answered a step; `results` are what each has said of it, of which
        `result` counts. Raises StepRefused when it is not the step awaited, or not of its
        shape."""
        assert self.scheduler is not None  # an epoch runs
        flight = self.scheduler.oldest
        recorded = carried(flight, self.live.journal)
        self._advanced = self.clock.now()
        with self.live.tracer.applying(flight, results, self.clock):
            for event in self.scheduler.apply(result, self._advanced):
                self.live.handle(event)
        self.live.planned.set()
        assert flight is not None  # else `apply` has refused the result
        record(recorded, flight.step, results)
        self.tally.step(results)
        if (behind := self.straggler.note(results)) is not None:
            self._say_behind(*behind)
        prefilled = sum(len(chunk.tokens) for chunk in flight.step.chunks)
        self.meter.add(self._advanced, decoded=len(result.decoded), prefilled=prefilled)

    def hear(self, news: ShelfNews) -> None:
        """All ranks have told what has become of a save or an order."""
        assert self.scheduler is not None  # an epoch runs
        self.live.tracer.heard(news, self.clock.now())
        self.scheduler.shelf_news(news)
        self.live.planned.set()
        if self.scheduler.disk_full and not self._said_full:
            self._said_full = True
            log.warning("the disk is full: from now on, no prefix is saved")

    def look(self) -> None:
        """End what is past its deadline, and take samples for the history; to be called now and
        then, in an epoch and between them. Raises StepOverdue when a step is."""
        now = self.clock.now()
        if self.trend.due(now - self.started):
            self._sample(now)
        if self.scheduler is None:
            if self._down is not None and not self._recovering(now):
                waited = f"no engines for {now - self._down:.0f} s ({self._waiting_for})"
                self.live.fail(NotReady(f"not ready: {waited}", retry_after=5))
        else:
            if self.scheduler.awaits_shelf:
                self.live.planned.set()  # planning ends the wait for a file that takes too long
            if self.scheduler.overdue(now):
                raise StepOverdue("a step did not finish within its deadline")
        self.live.expire(now, self.limits.queue_seconds)

    def end(self, error: BaseException | None) -> None:
        """The epoch is over, because of `error`, or as somebody wishes. Live requests wait for
        the next one; those that are over for their clients have no slot to be let go of."""
        now = self.clock.now()
        if error is not None:
            self.tally.epoch_ended(error)
        group = self.group
        if group is not None:
            told = str(error or "")  # see `explain`
            ran = now - self._began
            self.history.append(EpochView(group.epoch, len(group.engines), ran, told))
        self._waiting_for = f"forming a new group: {error or 'the engines were stopped'}"
        if self.scheduler is not None:
            self._paces[self._world] = self.scheduler.pace
            if isinstance(error, StepOverdue) and not self.scheduler.measured:
                del self._paces[self._world]  # what it was late by may be no guide
        self.settled = False
        self._down = now
        self.live.interrupt()

    def rest(self) -> None:
        """Its engines are gone as somebody wished, or were never there: requests wait for as long
        as in a queue, and whoever runs it starts engines for them."""
        self.resting, self.settled, self._down = True, True, None
        self.live.held = False
        self._waiting_for = "not loaded"

    def fits(self, entry: Entry) -> bool:
        """A request of another coordinator of the same model can go on here."""
        return entry.sequence.most <= self.limits.kv_tokens - self.limits.slot_positions

    def explain(self, error: BaseException) -> None:
        """What ended the latest epoch, where `end` could not know: its tasks were cancelled,
        because something beside them had failed."""
        if self.history and not self.history[-1].reason:
            self.history[-1] = replace(self.history[-1], reason=str(error))
            self.tally.epoch_ended(error)

    def silent_for(self) -> float:
        """Seconds since the last result of a step, or the beginning of the epoch."""
        return self.clock.now() - self._advanced

    def close(self) -> None:
        """Take no more requests, and end every live one with ShuttingDown."""
        self._closing = True
        self.live.fail(ShuttingDown("the server is stopping", retry_after=5))

    def _say_behind(self, rank: int, factor: float) -> None:
        log.warning(
            "a machine is much slower than the others, which wait for it",
            rank=rank,
            host=dict(enumerate(self._hosts())).get(rank, ""),
            times_as_long=round(factor, 1),
        )

    def _sample(self, now: float) -> None:
        decoded, prefilled = self.meter.rates(now)
        epoch = self.group.epoch if self.group else 0
        running = self.scheduler.live_slots if self.scheduler else 0
        queued = self.scheduler.waiting if self.scheduler else len(self.live.journal)
        self.trend.take(
            now - self.started, Load(epoch, decoded, prefilled, queued, running), self.tally
        )

    def _hosts(self) -> tuple[str, ...]:
        """Names of the machines of the epoch that runs, by rank."""
        engines = self.group.engines if self.group is not None else ()
        return tuple(engine.member.description.hostname for engine in engines)

    @property
    def _world(self) -> int:
        """Ranks of the epoch that runs."""
        return len(self.group.engines) if self.group is not None else 1

    def _recovering(self, now: float) -> bool:
        """Between epochs, and not for longer than requests wait."""
        return self._down is not None and now - self._down < self.limits.recovery_seconds
