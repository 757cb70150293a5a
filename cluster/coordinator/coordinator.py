"""The one that decides: takes requests, drives the plan, hands out tokens."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from cluster.coordinator.epoch import Group
from cluster.coordinator.generation import Generation
from cluster.coordinator.journal import STEPS_KEPT, Entry, Journal
from cluster.coordinator.meter import Meter
from cluster.coordinator.metrics import Exposition
from cluster.coordinator.picture import picture
from cluster.coordinator.ranks import StepPort
from cluster.coordinator.steps import carried, record
from cluster.coordinator.tally import Tally
from cluster.core.channel import ChannelState, ChannelTable, TokenChannel
from cluster.core.clock import Clock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    DeadlinePassed,
    EpochEnded,
    InvalidRequest,
    NotReady,
    PromptTooLong,
    ShuttingDown,
    TandemError,
)
from cluster.core.ids import Epoch, RequestId, new_request_id
from cluster.core.request import Finish, Order, Piece, Request
from cluster.core.view import ClusterView, Health, ServedModel
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.scheduler import Scheduler
from cluster.text.logprobs import token_logprob
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer

WATCH_SECONDS = 0.25
"""How often deadlines are looked at; never part of the plan."""

log = structlog.get_logger()


class Coordinator:
    """Serves one model. `drive` runs an epoch; the rest is called by the API on the same loop."""

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
        self.scheduler: Scheduler | None = None
        """The plan of the epoch that runs; None between epochs."""
        self.group: Group | None = None
        """The engines of the epoch that runs."""
        self.started = clock.now()
        self._waiting_for = "starting"
        self._closing = False
        self._planned = asyncio.Event()
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
        return Generation(entry, self._cancel)

    def _take(self, order: Order, prefix: str) -> Entry:
        scheduler = self._accepting()
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
            sequence = scheduler.submit(channel, request, now)
        except TandemError:
            self.channels.remove(request.id)
            raise
        text = TextStream(self.tokenizer, order.stop, markers=order.markers)
        entry = Entry(request, sequence, channel, text)
        if order.record_steps:
            entry.steps = deque(maxlen=STEPS_KEPT)
        self.journal[request.id] = entry
        self._planned.set()
        return entry

    def cancel(self, request_id: RequestId) -> bool:
        """End a request as its client's wish; False when none by this id runs."""
        entry = self.journal.get(request_id)
        if entry is None or entry.channel.finish is not None:
            return False
        self._cancel(request_id)
        return True

    def health(self) -> Health:
        """Healthy while steps advance or none are wanted."""
        if self._closing or self.scheduler is None:
            return Health(False, "stopping" if self._closing else self._waiting_for)
        if self.scheduler.overdue(self.clock.now()):
            return Health(False, "a step is past its deadline")
        return Health(True, "serving")

    def view(self) -> ClusterView:
        """A picture of everything, for people."""
        return picture(self)

    def metrics(self) -> bytes:
        """Everything that is counted, in Prometheus's text format."""
        return self._exposition.text()

    # For whoever runs it

    def waiting_for(self, what: str) -> None:
        """Between epochs: what is being waited for, in a few words."""
        self._waiting_for = what

    async def drive(
        self, epoch: Epoch, ranks: StepPort, *, trimmable: bool, disk_bytes: int = 0
    ) -> None:
        """Run one epoch on `ranks` until it ends; always raises what ended it (EpochEnded, or
        a ProtocolError when ranks disagree). Every live request then fails with EpochEnded.
        `disk_bytes` is what the files of one rank may take; with 0, nothing is kept on disk."""
        self.scheduler = Scheduler(
            epoch,
            self.limits,
            self.pacing,
            trimmable=trimmable,
            end_ids=self.tokenizer.end_ids,
            shelf=ranks.shelved(),
            disk_bytes=disk_bytes,
        )
        reason = "the engines were stopped"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_steps(self.scheduler, ranks), name="send steps")
                group.create_task(self._apply_results(self.scheduler, ranks), name="results")
                group.create_task(self._watch(self.scheduler), name="watch deadlines")
                group.create_task(self._hear_news(self.scheduler, ranks), name="shelf news")
        except ExceptionGroup as errors:
            error = _first_leaf(errors)
            self.tally.epoch_ended(error)
            reason = str(error)
            raise error from errors
        finally:
            self.scheduler = None
            exits = [engine.exit for engine in self.group.engines] if self.group else []
            reason = next(filter(None, exits), reason)
            self._waiting_for = f"forming a new group: {reason}"
            self._fail_all(EpochEnded(f"the request was cut off: {reason}"))

    def close(self) -> None:
        """Take no more requests, and end every live one with ShuttingDown."""
        self._closing = True
        self._fail_all(ShuttingDown("the server is stopping", retry_after=5))

    # The epoch's tasks

    async def _send_steps(self, scheduler: Scheduler, ranks: StepPort) -> None:
        """Send what is planned: orders for the shelf, then the step. One task sends both, since
        a stream takes one message at a time."""
        while True:
            self._planned.clear()
            step = scheduler.next_step(self.clock.now())
            for order in scheduler.take_shelf_orders():
                await ranks.order(order)
            if step is None:
                await self._planned.wait()
            else:
                await ranks.send(step)

    async def _apply_results(self, scheduler: Scheduler, ranks: StepPort) -> None:
        while True:
            result = await ranks.next_result()
            flight = scheduler.oldest
            recorded = carried(flight, self.journal)
            for event in scheduler.apply(result):
                self._handle(event)
            self._planned.set()
            assert flight is not None  # else `apply` has refused the result
            record(recorded, flight.step, ranks.results)
            self.tally.step(ranks.results)
            now = self.clock.now()
            prefilled = sum(len(chunk.tokens) for chunk in flight.step.chunks)
            self.meter.add(now, decoded=len(result.decoded), prefilled=prefilled)

    async def _hear_news(self, scheduler: Scheduler, ranks: StepPort) -> None:
        """What has become of saves and orders."""
        while True:
            scheduler.shelf_news(await ranks.next_news())
            self._planned.set()
            if scheduler.disk_full and not self._said_full:
                self._said_full = True
                log.warning("the disk is full: from now on, no prefix is saved")

    async def _watch(self, scheduler: Scheduler) -> None:
        """End what is past its deadline: a request, or the epoch when a step is."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if scheduler.awaits_shelf:
                self._planned.set()  # planning ends the wait for a file that takes too long
            now = self.clock.now()
            if scheduler.overdue(now):
                raise EpochEnded("a step did not finish within its deadline")
            for request_id in scheduler.expired(now):
                entry = self.journal[request_id]
                where = "in the queue" if entry.sequence.slot is None else "in all"
                waited = f"{now - entry.sequence.submitted:.0f} s {where}"
                error = DeadlinePassed(f"the request took too long ({waited})")
                self._end(request_id, Finish.FAILED, error)

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
        if self.scheduler is not None:
            for event in self.scheduler.end(request_id, finish):
                self._handle(event)
        self._planned.set()

    def _close(self, entry: Entry, finish: Finish, error: TandemError | None = None) -> None:
        """Nothing more goes to the request's client. The first call counts."""
        if entry.channel.state is ChannelState.OPEN:
            entry.ended = self.clock.now()
            entry.channel.close(finish, error)
            self.tally.ended(entry, finish)

    def _fail_all(self, error: TandemError) -> None:
        """Every live request fails with `error`; where no epoch runs, all state goes too."""
        for request_id, entry in list(self.journal.items()):
            if self.scheduler is not None:
                self._end(request_id, Finish.FAILED, error)
            else:
                self._close(entry, Finish.FAILED, error)
                self._handle(Released(request_id))

    def _accepting(self) -> Scheduler:
        if self._closing:
            raise ShuttingDown("the server is stopping", retry_after=5)
        if self.scheduler is None:
            raise NotReady(f"not ready: {self._waiting_for}", retry_after=2)
        return self.scheduler


def _first_leaf(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error in nested groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
