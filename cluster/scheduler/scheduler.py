"""The plan's author: requests and results go in, steps and events come out.

A pure state machine. `submit`, `end` and `apply` say what happened; `next_step` decides what
the ranks do next. The same calls with the same arguments give the same plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from collections.abc import Sequence as Ids

from cluster.core.channel import TokenChannel
from cluster.core.config import Limits, Pacing
from cluster.core.errors import InvalidRequest, QueueFull, StepRefused
from cluster.core.ids import Epoch, RequestId, Seq, Slot
from cluster.core.plan import Chunk, Step, StepResult
from cluster.core.request import Finish, Request
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.scheduler.admission import Admission
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.flight import Answer, Flight, iterations_done, read
from cluster.scheduler.marks import snapshot_points
from cluster.scheduler.pace import Pace, PrefillShare
from cluster.scheduler.prefix import pack
from cluster.scheduler.rows import in_order
from cluster.scheduler.sequence import Sequence
from cluster.scheduler.shelf import Shelf
from cluster.scheduler.slots import SlotPool
from cluster.scheduler.turns import PrefillTurns

DEADLINE_FLOOR = 4.0
DEADLINE_FACTOR = 12.0
UNMEASURED_DEADLINE = 60.0
"""A step is overdue after max(4 s, 12 times its predicted time), invariant 7; before anything
has been measured there is no prediction, and first runs compile kernels."""


class Scheduler:
    """Decides the steps of one epoch."""

    def __init__(
        self,
        epoch: Epoch,
        limits: Limits,
        pacing: Pacing,
        *,
        trimmable: bool,
        end_ids: Collection[int] = (),
        shelf: Iterable[Shelved] = (),
        disk_bytes: int = 0,
        pace: Pace | None = None,
    ) -> None:
        """`end_ids` are the ids that end messages in prompts, whatever a request does with them;
        `shelf` is what every rank has on disk, where it may have `disk_bytes` (0: no disk).
        `pace` is what an earlier epoch of as many ranks has learned, if there was one."""
        self._epoch = epoch
        self._limits = limits
        self._pacing = pacing
        self._trimmable = trimmable
        self._end_ids = frozenset(end_ids)
        self._pool = SlotPool(limits, trimmable=trimmable)
        self._shelf = Shelf(shelf, disk_bytes, trimmable=trimmable)
        self.pace = pace or Pace()
        self.measured = False
        """True once a step of this epoch has told how long work takes."""
        self._share = PrefillShare(pacing.prefill_share)
        self._requests: dict[RequestId, Sequence] = {}
        self._admission = Admission(self._pool, self._shelf)
        self._turns = PrefillTurns()
        self._rows: list[Sequence] = []
        """Rows of the decode batch, in their order."""
        self._ended: list[RequestId] = []
        self._flights: deque[Flight] = deque()
        self._seq = 0
        self._answered = 0.0
        """When the last step was answered."""

    # What happened

    def submit(self, channel: TokenChannel, request: Request, now: float) -> Sequence:
        """Queue a request. Its tokens will go to `channel`, which therefore exists already.

        Raises QueueFull, or InvalidRequest when it could never fit into the cache.
        """
        if self.full:
            raise QueueFull(f"{len(self._admission)} requests are waiting already", retry_after=5)
        sequence = Sequence(request, now)
        self.resume(channel, sequence)
        return sequence

    def resume(self, channel: TokenChannel, sequence: Sequence) -> None:
        """Queue a sequence that was computed in an earlier epoch, or waited for this one, as if
        it came now. Raises InvalidRequest when it could never fit into the cache."""
        if channel.request_id != sequence.request.id:
            raise ValueError(f"channel of {channel.request_id} given for {sequence.request.id}")
        room = self._limits.kv_tokens - self._limits.slot_positions
        if sequence.most > room or not self._trimmable:
            sequence.draft = 0  # it may fit without them
        if sequence.most > room:
            raise InvalidRequest(
                f"the request may need {sequence.most} cache positions (prompt plus "
                f"max_tokens), and this cluster has {room}: lower max_tokens",
                param="max_tokens",
            )
        self._requests[sequence.request.id] = sequence
        self._admission.add(sequence)

    def end(self, request_id: RequestId, finish: Finish) -> list[Event]:
        """The request is over (cancelled, stop string, deadline): an edit to the next step.
        A request that is over already, or unknown, is left as it is."""
        sequence = self._requests.get(request_id)
        if sequence is None or sequence.finish is not None:
            return []
        sequence.finish = finish
        if sequence.slot is None:
            self._admission.remove(sequence)
            del self._requests[request_id]
            return [Released(request_id)]
        self._retire(sequence)
        return []

    def apply(self, result: StepResult, now: float) -> list[Event]:
        """All ranks have answered the oldest step in flight. Raises StepRefused when `result`
        is of another step, or not of the step's shape."""
        awaited = self._flights[0].step if self._flights else None
        if awaited is None or (awaited.epoch, awaited.seq) != (result.epoch, result.seq):
            raise StepRefused(
                f"result of step {result.seq} of epoch {result.epoch}, which is not the next "
                "one awaited"
            )
        answers = read(self._flights[0], result)
        flight = self._flights.popleft()
        self._answered = now
        self._observe(flight.step, result)
        for chunk in flight.step.chunks:
            flight.owners[chunk.slot].prefilled = chunk.start + len(chunk.tokens)
        self._shelf.landed(restore.entry for restore in flight.step.restore)
        events: list[Event] = []
        for answer in answers:
            events.extend(self._learn(answer))
        for request_id in flight.ended:
            del self._requests[request_id]
            events.append(Released(request_id))
        return events

    def shelf_news(self, news: ShelfNews) -> None:
        """All ranks have answered a save or a stage; ok only if all of them could do it."""
        self._shelf.news(news)

    # What to do

    def take_shelf_orders(self) -> list[ShelfOrder]:
        """What the ranks are to do with their files, beside the steps: each order once. Call
        it after whatever changes the plan, `end` and `shelf_news` included."""
        return self._shelf.take_orders()

    def next_step(self, now: float) -> Step | None:
        """The next step to send now; None when the window is full or there is nothing to do."""
        if len(self._flights) >= self._pacing.steps_in_flight:
            return None
        self._admit(now)
        self._snapshot()
        rows, iterations, seconds = self._plan_decode()
        chunks, prefill = self._plan_prefill(seconds if rows else None)
        save = self._shelf.save(self._pool.settled)
        edits = self._pool.take_edits()
        if not (edits or rows or chunks or save):
            return None
        self._seq += 1
        step = Step(
            epoch=self._epoch,
            seq=Seq(self._seq),
            release=tuple(edits.release),
            park=tuple(edits.park),
            save=(save,) if save is not None else (),
            fork=tuple(edits.fork),
            restore=tuple(edits.restore),
            admit=tuple(edits.admit),
            decode=tuple(rows),
            iterations=iterations,
            chunks=tuple(chunks),
        )
        self._launch(step, now, seconds, prefill)
        return step

    # What is

    @property
    def last_seq(self) -> int:
        """Number of the last step made; 0 before the first."""
        return self._seq

    def holds(self, scope: str, prompt: Ids[int]) -> int:
        """How many positions of a prompt need not be computed, as things are."""
        return self._pool.holds(scope, pack(prompt[:-1]))

    @property
    def steps_in_flight(self) -> int:
        return len(self._flights)

    @property
    def idle(self) -> bool:
        """True when no request is live and no step is in flight."""
        return not self._requests and not self._flights

    @property
    def awaits_shelf(self) -> bool:
        """True while a request waits for a file: `next_step` is to be called once a second then,
        even if nothing else happens, since it gives up what takes too long."""
        return self._shelf.waiting

    @property
    def disk_full(self) -> bool:
        """True once nothing is saved any more, since evicting left no room for it either."""
        return self._shelf.full

    @property
    def live_slots(self) -> int:
        return len(self._pool.live)

    @property
    def parked_slots(self) -> int:
        return self._pool.parked

    @property
    def sequences(self) -> dict[RequestId, Sequence]:
        """Every sequence that is queued, live, or not yet released on every rank."""
        return self._requests

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._admission)

    @property
    def full(self) -> bool:
        """True when as many requests wait as may: `submit` takes no more."""
        return len(self._admission) >= self._limits.queue

    @property
    def live_positions(self) -> int:
        """Cache positions set aside for live sequences."""
        return self._pool.live_positions

    @property
    def parked_positions(self) -> int:
        """Cache positions that parked prefixes take."""
        return self._pool.parked_positions

    @property
    def oldest(self) -> Flight | None:
        """The step in flight whose result comes next."""
        return self._flights[0] if self._flights else None

    def overdue(self, now: float) -> bool:
        """True when the oldest step in flight is past its deadline: no progress, no health."""
        if not self._flights:
            return False
        oldest = self._flights[0]
        # It begins when the step before it is done.
        return now > max(oldest.sent, self._answered) + oldest.allowed

    # Planning

    def _admit(self, now: float) -> None:
        admitted = self._admission.admit(now)
        self._turns.add(admitted)
        if self._trimmable:
            return
        for sequence in admitted:
            ends = self._end_ids | sequence.request.end_ids
            points = snapshot_points(sequence.feed, ends)
            sequence.marks = [point for point in points if point > sequence.planned_prefill]

    def _snapshot(self) -> None:
        """Copy what can't be trimmed later, where the plan has come to a mark, before it goes
        beyond. One that goes no further is parked there itself."""
        for sequence in tuple(self._pool.live.values()):
            if sequence.marked and (sequence.wants_prefill or sequence.wants_decode):
                self._pool.snapshot(sequence)
            sequence.marked = False

    def _plan_decode(self) -> tuple[list[Slot], int, float]:
        """Rows to decode, for how many iterations, and their predicted time together."""
        wanting = [q for q in self._pool.live.values() if q.wants_decode]
        if not wanting:
            self._rows = []
            return [], 0, 0.0
        left = min(q.wanted_iterations for q in wanting)
        iterations = min(left, self._fitting(len(wanting)))
        # Those for which there is no room stay as they are until another sequence ends.
        rows = [
            q for q in wanting if self._pool.grow(q, q.planned_length + iterations * (1 + q.draft))
        ]
        if not rows:
            self._make_way(wanting)
            return [], 0, 0.0
        for sequence in rows:
            sequence.planned_tokens += iterations * (1 + sequence.draft)
        seconds = iterations * self.pace.decode.seconds(len(rows))
        self._share.decoded(seconds)
        self._rows = in_order(self._rows, rows)
        return [q.slot for q in self._rows if q.slot is not None], iterations, seconds

    def _fitting(self, rows: int) -> int:
        """Iterations of one step, such that those in flight together keep their bound and steps
        are about even: 3 that fit are 2 and 1, not 1 and 1."""
        within = self.pace.decode.iterations_within
        bound = self._pacing.decode_in_flight
        even = -(-within(rows, bound) // self._pacing.steps_in_flight)
        return min(even, within(rows, bound - sum(flight.decode for flight in self._flights)))

    def _make_way(self, stuck: list[Sequence]) -> None:
        """Nobody has room to go on: the one admitted last gives up its slot, and begins anew
        when there is room for it. Only once nothing is in flight that may still make room."""
        if self._flights or self._turns or self._pool.pending or len(stuck) < 2:
            return
        sequence = stuck[-1]
        self._pool.retire(sequence)
        sequence.interrupt()
        self._admission.add_first(sequence)

    def _plan_prefill(self, decode: float | None) -> tuple[list[Chunk], float]:
        """The next chunk of the prompt whose turn it is, and whole remainders of others as far
        as the time of one chunk goes; and their predicted time together. None while it would
        make all prefill in flight too long (invariant 3).

        `decode` is the predicted time of the step's iterations; None when nobody decodes.
        """
        budget = self._pacing.chunk
        in_flight = sum(flight.prefill for flight in self._flights)
        if decode is None:
            self._share.reset()
        elif not self._share.due or decode < in_flight:
            # What can't begin before a chunk in flight is done need not be planned before:
            # prompts that come until then go together.
            return [], 0.0
        else:
            budget *= self._pacing.prefill_share
        room = self._pacing.prefill_in_flight - in_flight
        alone = not any(flight.step.chunks for flight in self._flights)
        chunks: list[Chunk] = []
        planned = 0.0
        for sequence in self._turns.order():
            start = sequence.planned_prefill
            left = len(sequence.feed) - start
            fit = self.pace.prefill.tokens_within(start, budget - planned)
            fit = min(fit, self._limits.chunk_at(start))
            tokens = min(fit, sequence.next_mark - start)
            seconds = self.pace.prefill.seconds(start, tokens)
            # A chunk may exceed its budget (pace.py), but not as an addition to another.
            if chunks and (tokens < left or planned + seconds > budget):
                break
            if planned + seconds > room and not (alone and not chunks):
                break
            chunks.append(self._plan_chunk(sequence, tokens))
            self._turns.took(sequence, led=len(chunks) == 1)
            planned += seconds
            if decode is not None:
                self._share.prefilled(seconds)
            if tokens == left:
                # Its stream goes with the others from now on: worth a longer wait for them.
                budget = self._pacing.chunk
        return chunks, planned

    def _plan_chunk(self, sequence: Sequence, tokens: int) -> Chunk:
        assert sequence.slot is not None  # it has a turn, so it was admitted
        start = sequence.planned_prefill
        sequence.planned_prefill = end = start + tokens
        if sequence.marks and end == sequence.marks[0]:
            del sequence.marks[0]
            sequence.marked = True
        last = end == len(sequence.feed)
        if last:
            sequence.planned_tokens = sequence.fed + 1
        return Chunk(sequence.slot, start, sequence.feed[start:end], sample=last)

    def _launch(self, step: Step, now: float, decode: float, prefill: float) -> None:
        predicted = decode + prefill
        allowed = max(DEADLINE_FLOOR, DEADLINE_FACTOR * predicted)
        if not predicted:
            allowed = UNMEASURED_DEADLINE
        owners = {slot: self._pool.live[slot] for slot in step.decode}
        owners |= {chunk.slot: self._pool.live[chunk.slot] for chunk in step.chunks}
        ended = tuple(self._ended)
        self._flights.append(Flight(step, now, allowed, owners, ended, decode, prefill))
        self._ended.clear()

    # Learning

    def _observe(self, step: Step, result: StepResult) -> None:
        done = iterations_done(step, result)
        self.measured = self.measured or done > 0 or bool(step.chunks)
        self.pace.decode.observe(len(step.decode), done, result.decode_seconds)
        for chunk, seconds in zip(step.chunks, result.chunk_seconds, strict=True):
            self.pace.prefill.observe(chunk.start, len(chunk.tokens), seconds)

    def _learn(self, answer: Answer) -> list[Event]:
        """Ids were sampled for a sequence: deliver what belongs to its answer."""
        sequence, ids = answer.sequence, answer.ids
        sequence.planned_tokens -= answer.planned - len(ids)
        request = sequence.request
        if not ids:
            return []  # it had ended in the step before: every iteration was left out
        if sequence.finish is not None:
            return [Drained(request.id, len(ids))]
        taken, finish = sequence.take(ids)
        text = taken[:-1] if taken[-1] in request.end_ids else taken
        likelihoods = tuple(answer.likelihoods[: len(text)])
        events: list[Event] = [Sampled(request.id, tuple(text), len(taken), finish, likelihoods)]
        if len(taken) < len(ids):
            events.append(Drained(request.id, len(ids) - len(taken)))
        if finish is not None:
            self._retire(sequence)
        return events

    def _retire(self, sequence: Sequence) -> None:
        """Its slot is let go of in the next step."""
        self._turns.discard(sequence)
        self._pool.retire(sequence)
        self._ended.append(sequence.request.id)
