"""The live requests of one coordinator: what becomes of each, whichever epoch computes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from cluster.coordinator.journal import STEPS_KEPT, Entry, Journal
from cluster.coordinator.tally import Tally
from cluster.coordinator.tracer import Traced, Tracer
from cluster.core.channel import ChannelState, ChannelTable, TokenChannel
from cluster.core.clock import Clock
from cluster.core.errors import (
    DeadlinePassed,
    EpochEnded,
    InvalidRequest,
    QueueFull,
    RequestCrashes,
    TandemError,
)
from cluster.core.ids import RequestId
from cluster.core.request import Finish, Order, Piece, Request
from cluster.membership.fleet import Use
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.sequence import Sequence
from cluster.text.logprobs import token_logprob
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer

log = structlog.get_logger()


class LiveRequests:
    """From submission until every rank has let go. Each request's client sees tokens and one end,
    and nothing of the epochs that come and go."""

    def __init__(self, clock: Clock, tally: Tally, hosts: Callable[[], tuple[str, ...]]) -> None:
        """`hosts`: see Tracer."""
        self._clock = clock
        self._tally = tally
        self.journal: Journal = {}
        self.channels = ChannelTable()
        self.tracer = Tracer(hosts)
        self.scheduler: Scheduler | None = None
        """The plan of the epoch that runs; None between epochs."""
        self.held = False
        """New requests are kept out of the plan."""
        self.suspects: list[Entry] = []
        """Those that had a slot when the last epoch ended."""
        self.planned = asyncio.Event()
        """Set when there may be something to plan."""

    # They come

    def enter(self, request: Request, order: Order, tokenizer: Tokenizer, most: int) -> Entry:
        """Take a request into the plan; between epochs, and while requests are held, into the
        journal only, which then takes so many at `most`. Raises QueueFull or InvalidRequest."""
        channel = TokenChannel(request.id, self.channels)
        try:
            sequence = self._queue(channel, request, most)
        except TandemError:
            self.channels.remove(request.id)
            raise
        text = TextStream(tokenizer, order.stop, markers=order.markers)
        entry = Entry(request, sequence, channel, text, tokenizer, cancel=self.cancel)
        if order.record_steps:
            entry.steps = deque(maxlen=STEPS_KEPT)
        if order.timeline is not None:
            self.tracer.entered(entry, order.timeline)
        self.journal[request.id] = entry
        self.planned.set()
        return entry

    def _queue(self, channel: TokenChannel, request: Request, most: int) -> Sequence:
        now = self._clock.now()
        if self.scheduler is not None and not self.held:
            return self.scheduler.submit(channel, request, now)
        if self.full(most):
            raise QueueFull(f"{len(self.journal)} requests are waiting already", retry_after=5)
        return Sequence(request, now)

    def full(self, most: int) -> bool:
        """`enter` would take no more requests now, with the same `most`."""
        if self.scheduler is not None and not self.held:
            return self.scheduler.full
        return len(self.journal) >= most

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
        return entry, self.tracer.give(request_id)

    def take(self, entry: Entry, traced: Traced | None) -> None:
        """Go on with a request that another coordinator gave."""
        self.channels.register(entry.channel)
        self.journal[entry.request.id] = entry
        entry.cancel = self.cancel
        if traced is not None:
            self.tracer.take(traced)
        if self.scheduler is not None:
            self._resume(self.scheduler, entry)
            self._tally.replayed += 1
            self.planned.set()

    # Epochs come and go

    def begin(self, scheduler: Scheduler) -> None:
        """All go on in another plan (invariant 8)."""
        self.scheduler = scheduler
        self.held = False
        self.tracer.begin()
        # Those that may be what crashes engines first: nobody else is there to suffer.
        for entry in sorted(self.journal.values(), key=lambda entry: not entry.sequence.alone):
            self._resume(scheduler, entry)
        self.planned.set()

    def interrupt(self) -> None:
        """The plan is gone. They wait for the next one; those that are over for their clients
        have no slot to be let go of."""
        if self.scheduler is not None:
            self.tracer.interrupted(self.scheduler.oldest, self._clock.now())
        self.scheduler = None
        self.suspects = []
        for request_id, entry in list(self.journal.items()):
            sequence = entry.sequence
            if sequence.finish is not None or entry.channel.state is not ChannelState.OPEN:
                self.handle(Released(request_id))
                continue
            if sequence.slot is not None:
                self.suspects.append(entry)
            if sequence.slot is not None or sequence.reserved:
                sequence.interrupt()

    def blame(self) -> None:
        """What ended the epoch may have been one of the requests that had a slot in it. One
        that was in two such epochs is computed alone, and fails when that ends in a crash."""
        suspects, self.suspects = self.suspects, []
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

    def _resume(self, scheduler: Scheduler, entry: Entry) -> None:
        """A request that no plan has comes into this one, if it fits."""
        try:
            scheduler.resume(entry.channel, entry.sequence)
        except InvalidRequest as error:  # the epoch before had more room
            self._drop(entry, EpochEnded(f"the cluster has become smaller: {error}"))

    # Tokens

    def handle(self, event: Event) -> None:
        """What the plan says of a request."""
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
        self._tally.piece(entry, taken, self._clock.now())
        told = zip(event.ids[:taken], event.likelihoods, strict=False)  # none unless asked for
        logprobs = tuple(token_logprob(entry.tokenizer, token, how) for token, how in told)
        channel.put(Piece("".join(text), taken, logprobs))
        if entry.text.stopped:
            self.channels.drained(event.count - taken)
            self._end(event.request_id, Finish.STOP)
        elif event.finish is not None:
            self._close(entry, event.finish)

    # They end

    def cancel(self, request_id: RequestId) -> None:
        """Its client wants no more of it."""
        self._end(request_id, Finish.CANCELLED)

    def expire(self, now: float, queue_seconds: float) -> None:
        """End what is past its deadline, or has waited for so long."""
        for request_id, entry in list(self.journal.items()):
            sequence = entry.sequence
            if sequence.finish is None and sequence.late(now, queue_seconds):
                where = "in the queue" if sequence.slot is None else "in all"
                waited = f"{now - sequence.submitted:.0f} s {where}"
                error = DeadlinePassed(f"the request took too long ({waited})")
                self._end(request_id, Finish.FAILED, error)

    def fail(self, error: TandemError) -> None:
        """Every one fails with `error`."""
        for request_id in list(self.journal):
            self._end(request_id, Finish.FAILED, error)

    def _end(self, request_id: RequestId, finish: Finish, error: TandemError | None = None) -> None:
        """The request is over for its client, and leaves the plan at the next step."""
        entry = self.journal.get(request_id)
        if entry is None:
            return
        self._close(entry, finish, error)
        if self.scheduler is None or request_id not in self.scheduler.sequences:
            self.handle(Released(request_id))
            return
        for event in self.scheduler.end(request_id, finish):
            self.handle(event)
        self.planned.set()

    def _drop(self, entry: Entry, error: TandemError) -> None:
        """The request fails, and no plan knows it."""
        self._close(entry, Finish.FAILED, error)
        self.handle(Released(entry.request.id))

    def _close(self, entry: Entry, finish: Finish, error: TandemError | None = None) -> None:
        """Nothing more goes to the request's client. The first call counts."""
        if entry.channel.state is ChannelState.OPEN:
            entry.ended = self._clock.now()
            entry.channel.close(finish, error)
            self.tracer.closed(entry, entry.ended)
            self._tally.ended(entry, finish)

    # For people

    def use(self) -> Use:
        """How many are computed, how many wait, and since when the oldest is there."""
        planned = self.scheduler.sequences if self.scheduler is not None else {}
        entries = self.journal.values()
        waiting = sum(e.sequence.begun is None and e.request.id not in planned for e in entries)
        since = min((entry.sequence.submitted for entry in entries), default=0.0)
        return Use(len(entries) - waiting, waiting, since)
