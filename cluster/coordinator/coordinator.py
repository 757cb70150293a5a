"""The one that decides: takes requests, keeps their plan, hands out tokens.

Nothing here waits: `drive.py` does the sending and receiving. So a simulation can run it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from cluster.coordinator.epoch import Group
from cluster.coordinator.generation import Generation
from cluster.coordinator.journal import STEPS_KEPT, Entry, Journal
from cluster.coordinator.meter import Meter
from cluster.coordinator.metrics import Exposition
from cluster.coordinator.picture import picture, request_views
from cluster.coordinator.steps import carried, record
from cluster.coordinator.tally import Tally
from cluster.coordinator.tracer import Traced, Tracer
from cluster.coordinator.trend import Load, Trend
from cluster.core.channel import ChannelState, ChannelTable, TokenChannel
from cluster.core.clock import Clock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    DeadlinePassed,
    EpochEnded,
    InvalidRequest,
    NotReady,
    PromptTooLong,
    QueueFull,
    RequestCrashes,
    ShuttingDown,
    StepOverdue,
    TandemError,
)
from cluster.core.facts import Pair, Survey
from cluster.core.ids import Epoch, RequestId, new_request_id
from cluster.core.plan import Step, StepResult
from cluster.core.request import Finish, Order, Piece, Request
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
from cluster.membership.fleet import Use
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.pace import Pace
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.sequence import Sequence as Live
from cluster.text.logprobs import token_logprob
from cluster.text.stream import TextStream
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
        self.channels = ChannelTable()
        self.journal: Journal = {}
        self.meter = Meter()
        self.tally = Tally()
        self.trend = Trend()
        self._tracer = Tracer(self._hosts)
        self.scheduler: Scheduler | None = None
        """The plan of the epoch that runs; None between epochs."""
        self.group: Group | None = None
        """The engines of the epoch that runs."""
        self.crew: Crew | None = None
        """The machines; None until they are gathered."""
        self.history: deque[EpochView] = deque(maxlen=HISTORY)
        """Epochs that are over."""
        self.started = clock.now()
        self.planned = asyncio.Event()
        """Set when there may be something to plan."""
        self._down: float | None = None
        """Since when no epoch runs; None while one does, and before the first."""
        self._advanced = clock.now()
        """When the last step was answered, or the epoch began."""
        self._began = clock.now()
        self._paces: dict[int, Pace] = {}
        """What epochs have learned of the speed of so many ranks. Without it, one that is stuck
        in its first step would be waited for much longer than in any other."""
        self._in_flight: list[Entry] = []
        """Requests that had a slot when the last epoch ended."""
        self._waiting_for = "starting"
        self.resting = False
        """The model is not loaded, and will be for the requests that come: until then they wait
        as in a queue."""
        self.held = False
        """New requests are kept out of the plan."""
        self.settled = True
        """It is known whether a request was to blame for the end of the latest epoch."""
        self._closing = False
        self._said_full = False
        self._exposition = Exposition(self)

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
        fitting = self.limits.kv_tokens - self.limits.slot_positions
        context = min(self.model.context, fitting)
        room = context - len(order.prompt)
        if room <= 0:
            size = self.limits.position_bytes if context == fitting else 0
            raise PromptTooLong(len(order.prompt), context, position_bytes=size)
        if not order.prompt:
            raise InvalidRequest("the prompt has no tokens", param="messages")
        now = self.clock.now()
        max_tokens = room if order.max_tokens is None else min(order.max_tokens, room)
        # What a grammar allows once it is complete is an end id, and nothing after it.
        endless = order.ignore_eos and not order.grammar
        request = Request(
            id=new_request_id(prefix),
            prompt=order.prompt,
            max_tokens=max_tokens,
            sampling=order.sampling,
            end_ids=frozenset() if endless else self.tokenizer.end_ids,
            scope=order.scope,
            deadline=now + self.limits.request_seconds,
            min_tokens=min(order.min_tokens, max_tokens),
            logprobs=order.logprobs,
            grammar=order.grammar,
            draft=self.limits.draft,
            cache=order.cache,
        )
        channel = TokenChannel(request.id, self.channels)
        try:
            sequence = self._queue(channel, request, now)
        except TandemError:
            self.channels.remove(request.id)
            raise
        text = TextStream(self.tokenizer, order.stop, markers=order.markers)
        entry = Entry(request, sequence, channel, text, cancel=self._cancel)
        if order.record_steps:
            entry.steps = deque(maxlen=STEPS_KEPT)
        if order.timeline is not None:
            self._tracer.entered(entry, order.timeline)
        self.journal[request.id] = entry
        self.planned.set()
        return entry

    def _queue(self, channel: TokenChannel, request: Request, now: float) -> Live:
        """Put it into the plan; between epochs, and while requests are held, into the journal
        only."""
        if self.scheduler is not None and not self.held:
            return self.scheduler.submit(channel, request, now)
        if len(self.journal) >= self.limits.queue + self.limits.sequences:
            raise QueueFull(f"{len(self.journal)} requests are waiting already", retry_after=5)
        return Live(request, now)

    def check_accepting(self) -> None:
        """Raise NotReady or ShuttingDown when requests can't be taken now."""
        if self._closing:
            raise ShuttingDown("the server is stopping", retry_after=5)
        waits = self.resting or self._recovering(self.clock.now())
        if self.scheduler is None and not waits:
            raise NotReady(f"not ready: {self._waiting_for}", retry_after=2)

    def cancel(self, request_id: RequestId) -> bool:
        """End a request as its client's wish; False when none by this id runs."""
        entry = self.journal.get(request_id)
        if entry is None or entry.channel.finish is not None:
            return False
        self._cancel(request_id)
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
        self.scheduler = Scheduler(
            epoch,
            self.limits,
            self.pacing,
            trimmable=trimmable,
            end_ids=self.tokenizer.end_ids,
            shelf=shelf,
            disk_bytes=disk_bytes,
            pace=self._paces.get(self._world),
        )
        self.resting = self.held = False
        self._tracer.begin()
        self._advanced = self._began = self.clock.now()
        if self._down is not None:
            took = self._advanced - self._down
            self.tally.recovered(took, len(self.journal))
            if self.history:
                self.history[-1] = replace(self.history[-1], recovery_seconds=took)
            self._down = None
        # Those that may be what crashes engines first: nobody else is there to suffer.
        for entry in sorted(self.journal.values(), key=lambda entry: not entry.sequence.alone):
            self._resume(self.scheduler, entry)
        self.planned.set()

    def next(self) -> tuple[list[ShelfOrder], Step | None]:
        """What to send now: orders for the shelf, then a step."""
        assert self.scheduler is not None  # an epoch runs
        now = self.clock.now()
        step = self.scheduler.next_step(now)
        orders = self.scheduler.take_shelf_orders()
        return orders, self._tracer.planned(step, orders, now)

    def apply(self, result: StepResult, results: Sequence[StepResult]) -> None:
        """Every rank has answered a step; `results` are what each has said of it, of which
        `result` counts. Raises StepRefused when it is not the step awaited, or not of its
        shape."""
        assert self.scheduler is not None  # an epoch runs
        flight = self.scheduler.oldest
        recorded = carried(flight, self.journal)
        self._advanced = self.clock.now()
        with self._tracer.applying(flight, results, self.clock):
            for event in self.scheduler.apply(result, self._advanced):
                self._handle(event)
        self.planned.set()
        assert flight is not None  # else `apply` has refused the result
        record(recorded, flight.step, results)
        self.tally.step(results)
        prefilled = sum(len(chunk.tokens) for chunk in flight.step.chunks)
        self.meter.add(self._advanced, decoded=len(result.decoded), prefilled=prefilled)

    def hear(self, news: ShelfNews) -> None:
        """All ranks have told what has become of a save or an order."""
        assert self.scheduler is not None  # an epoch runs
        self._tracer.heard(news, self.clock.now())
        self.scheduler.shelf_news(news)
        self.planned.set()
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
                self._fail_all(NotReady(f"not ready: {waited}", retry_after=5))
        else:
            if self.scheduler.awaits_shelf:
                self.planned.set()  # planning ends the wait for a file that takes too long
            if self.scheduler.overdue(now):
                raise StepOverdue("a step did not finish within its deadline")
        for request_id, entry in list(self.journal.items()):
            sequence = entry.sequence
            if sequence.finish is None and sequence.late(now, self.limits.queue_seconds):
                where = "in the queue" if sequence.slot is None else "in all"
                waited = f"{now - sequence.submitted:.0f} s {where}"
                error = DeadlinePassed(f"the request took too long ({waited})")
                self._end(request_id, Finish.FAILED, error)

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
            self._tracer.interrupted(self.scheduler.oldest, now)
            if isinstance(error, StepOverdue) and not self.scheduler.measured:
                del self._paces[self._world]  # what it was late by may be no guide
        self.scheduler = None
        self.settled = False
        self._down = now
        self._in_flight = []
        for request_id, entry in list(self.journal.items()):
            sequence = entry.sequence
            if sequence.finish is not None or entry.channel.state is not ChannelState.OPEN:
                self._handle(Released(request_id))
                continue
            if sequence.slot is not None:
                self._in_flight.append(entry)
            if sequence.slot is not None or sequence.reserved:
                sequence.interrupt()

    def rest(self) -> None:
        """Its engines are gone as somebody wished, or were never there: requests wait for as long
        as in a queue, and whoever runs it starts engines for them."""
        self.resting, self.settled, self.held, self._down = True, True, False, None
        self._waiting_for = "not loaded"

    def hold(self) -> None:
        """Requests that come are kept out of the plan, until `release` or the next epoch."""
        self.held = True

    def release(self) -> None:
        """Those that were kept out of the plan come into it."""
        self.held = False
        if self.scheduler is not None:
            for entry in list(self.journal.values()):
                if entry.request.id not in self.scheduler.sequences:
                    self._resume(self.scheduler, entry)
            self.planned.set()

    def give(self, request_id: RequestId) -> tuple[Entry, Traced | None]:
        """Hand over a request that no plan has, to another coordinator of the same model. Raises
        KeyError when there is none."""
        entry = self.journal.pop(request_id)
        self.channels.give(request_id)
        return entry, self._tracer.give(request_id)

    def fits(self, entry: Entry) -> bool:
        """A request of another coordinator of the same model can go on here."""
        return entry.sequence.most <= self.limits.kv_tokens - self.limits.slot_positions

    def take(self, entry: Entry, traced: Traced | None) -> None:
        """Go on with a request that another coordinator gave."""
        self.channels.register(entry.channel)
        self.journal[entry.request.id] = entry
        entry.cancel = self._cancel
        if traced is not None:
            self._tracer.take(traced)
        if self.scheduler is not None:
            self._resume(self.scheduler, entry)
            self.tally.replayed += 1
            self.planned.set()

    def fail(self, error: TandemError) -> None:
        """Every live request fails with `error`; others may come."""
        self._fail_all(error)

    def use(self) -> Use:
        """What is asked of it now."""
        planned = self.scheduler.sequences if self.scheduler is not None else {}
        entries = self.journal.values()
        waiting = sum(e.sequence.begun is None and e.request.id not in planned for e in entries)
        since = min((entry.sequence.submitted for entry in entries), default=0.0)
        return Use(len(entries) - waiting, waiting, since)

    def explain(self, error: BaseException) -> None:
        """What ended the latest epoch, where `end` could not know: its tasks were cancelled,
        because something beside them had failed."""
        if self.history and not self.history[-1].reason:
            self.history[-1] = replace(self.history[-1], reason=str(error))
            self.tally.epoch_ended(error)

    def silent_for(self) -> float:
        """Seconds since the last result of a step, or the beginning of the epoch."""
        return self.clock.now() - self._advanced

    def crashed(self) -> None:
        """What ended the epoch may have been one of the requests that had a slot in it. One
        that was in two such epochs is computed alone, and fails when that ends in a crash."""
        suspects, self._in_flight = self._in_flight, []
        for entry in suspects:
            if entry.sequence.alone:
                crashes = entry.sequence.crashes + 1
                self._drop(
                    entry,
                    RequestCrashes(
                        f"the engines have crashed {crashes} times while they computed this "
                        "request, at last with no other beside it: it is not tried again"
                    ),
                )
            else:
                entry.sequence.crashed()

    def close(self) -> None:
        """Take no more requests, and end every live one with ShuttingDown."""
        self._closing = True
        self._fail_all(ShuttingDown("the server is stopping", retry_after=5))

    # Events

    def _handle(self, event: Event) -> None:
        match event:
            case Sampled():
                self._deliver(event)
            case Drained(_, count):
                self.channels.drained(count)
            case Released(request_id):
                self.channels.remove(request_id)
                self.journal.pop(request_id, None)

    def _deliver(self, event: Sampled) -> None:
        """Turn new ids into text on the request's channel; the only way tokens get there."""
        channel = self.channels.find(event.request_id, event.count)
        if channel is None:
            if event.request_id not in self.channels:
                log.error("tokens without a channel", request=event.request_id)
            return
        entry = self.journal[event.request_id]
        text: list[str] = []
        taken = event.count
        for place, token in enumerate(event.ids, start=1):
            text.append(entry.text.push(token))
            if entry.text.stopped:
                taken = place
                break
        if event.finish is not None and not entry.text.stopped:
            text.append(entry.text.finish())
        entry.delivered += taken
        self.tally.piece(entry, taken, self.clock.now())
        told = zip(event.ids[:taken], event.likelihoods, strict=False)  # none unless asked for
        logprobs = tuple(token_logprob(self.tokenizer, token, how) for token, how in told)
        channel.put(Piece("".join(text), taken, logprobs))
        if entry.text.stopped:
            self.channels.drained(event.count - taken)
            self._end(event.request_id, Finish.STOP)
        elif event.finish is not None:
            self._close(entry, event.finish)

    def _cancel(self, request_id: RequestId) -> None:
        self._end(request_id, Finish.CANCELLED)

    def _end(self, request_id: RequestId, finish: Finish, error: TandemError | None = None) -> None:
        """The request is over for its client, and leaves the plan at the next step."""
        entry = self.journal.get(request_id)
        if entry is None:
            return
        self._close(entry, finish, error)
        if self.scheduler is None or request_id not in self.scheduler.sequences:
            self._handle(Released(request_id))
            return
        for event in self.scheduler.end(request_id, finish):
            self._handle(event)
        self.planned.set()

    def _resume(self, scheduler: Scheduler, entry: Entry) -> None:
        """A request that no plan has comes into this one, if it fits."""
        try:
            scheduler.resume(entry.channel, entry.sequence)
        except InvalidRequest as error:  # the epoch before had more room
            self._drop(entry, EpochEnded(f"the cluster has become smaller: {error}"))

    def _drop(self, entry: Entry, error: TandemError) -> None:
        """The request fails, and no plan knows it."""
        self._close(entry, Finish.FAILED, error)
        self._handle(Released(entry.request.id))

    def _close(self, entry: Entry, finish: Finish, error: TandemError | None = None) -> None:
        """Nothing more goes to the request's client. The first call counts."""
        if entry.channel.state is ChannelState.OPEN:
            entry.ended = self.clock.now()
            entry.channel.close(finish, error)
            self._tracer.closed(entry, entry.ended)
            self.tally.ended(entry, finish)

    def _fail_all(self, error: TandemError) -> None:
        """Every live request fails with `error`."""
        for request_id in list(self.journal):
            self._end(request_id, Finish.FAILED, error)

    def _sample(self, now: float) -> None:
        decoded, prefilled = self.meter.rates(now)
        epoch = self.group.epoch if self.group else 0
        running = self.scheduler.live_slots if self.scheduler else 0
        queued = self.scheduler.waiting if self.scheduler else len(self.journal)
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
