"""The plan's author: requests and results go in, steps and events come out.

A pure state machine. `submit`, `end` and `apply` say what happened; `next_step` decides what
the ranks do next. The same calls with the same arguments give the same plan.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cluster.core.channel import TokenChannel
from cluster.core.config import Limits, Pacing
from cluster.core.errors import InvalidRequest, QueueFull, StepRefused
from cluster.core.ids import Epoch, RequestId, Seq, Slot
from cluster.core.plan import Chunk, Step, StepResult
from cluster.core.request import Finish, Request
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.pace import DecodePace, PrefillPace, PrefillShare
from cluster.scheduler.sequence import Sequence
from cluster.scheduler.slots import SlotPool

DEADLINE_FLOOR = 4.0
DEADLINE_FACTOR = 12.0
UNMEASURED_DEADLINE = 60.0
"""A step is overdue after max(4 s, 12 times its predicted time), invariant 7; before anything
has been measured there is no prediction, and first runs compile kernels."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was sent and not yet answered by all ranks."""

    step: Step
    sent: float
    deadline: float
    owners: dict[Slot, Sequence]
    """Whose slots the step computes on; a slot may have another owner by the time it is done."""
    ended: tuple[RequestId, ...]
    """Requests whose slot this step parks or releases."""
    prefill: float
    """Predicted time of its chunks together when it was planned, in seconds."""


class Scheduler:
    """Decides the steps of one epoch."""

    def __init__(self, epoch: Epoch, limits: Limits, pacing: Pacing, *, trimmable: bool) -> None:
        self._epoch = epoch
        self._limits = limits
        self._pacing = pacing
        self._pool = SlotPool(limits, trimmable=trimmable)
        self._prefill_pace = PrefillPace()
        self._decode_pace = DecodePace()
        self._share = PrefillShare(pacing.prefill_share)
        self._requests: dict[RequestId, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._ended: list[RequestId] = []
        self._flights: deque[Flight] = deque()
        self._seq = 0

    # What happened

    def submit(self, channel: TokenChannel, request: Request, now: float) -> Sequence:
        """Queue a request. Its tokens will go to `channel`, which therefore exists already.

        Raises QueueFull, or InvalidRequest when it could never fit into the cache.
        """
        if channel.request_id != request.id:
            raise ValueError(f"channel of {channel.request_id} given for {request.id}")
        if len(self._waiting) >= self._limits.queue:
            raise QueueFull(f"{len(self._waiting)} requests are waiting already", retry_after=5)
        sequence = Sequence(request, now)
        if sequence.most > self._limits.kv_tokens:
            raise InvalidRequest(
                f"the request may need {sequence.most} cache positions (prompt plus "
                f"max_tokens), and this cluster has {self._limits.kv_tokens}: lower max_tokens",
                param="max_tokens",
            )
        self._requests[request.id] = sequence
        self._waiting.append(sequence)
        return sequence

    def end(self, request_id: RequestId, finish: Finish) -> list[Event]:
        """The request is over (cancelled, stop string, deadline): an edit to the next step.
        A request that is over already, or unknown, is left as it is."""
        sequence = self._requests.get(request_id)
        if sequence is None or sequence.finish is not None:
            return []
        sequence.finish = finish
        if sequence.slot is None:
            self._waiting.remove(sequence)
            del self._requests[request_id]
            return [Released(request_id)]
        self._retire(sequence)
        return []

    def apply(self, result: StepResult) -> list[Event]:
        """All ranks have answered the oldest step in flight. Raises StepRefused when `result`
        is of another step, or not of the step's shape."""
        awaited = self._flights[0].step if self._flights else None
        if awaited is None or (awaited.epoch, awaited.seq) != (result.epoch, result.seq):
            raise StepRefused(
                f"result of step {result.seq} of epoch {result.epoch}, which is not the next "
                "one awaited"
            )
        sampled = _sampled_ids(self._flights[0], result)
        flight = self._flights.popleft()
        self._observe(flight.step, result)
        events: list[Event] = []
        for sequence, ids in sampled:
            events.extend(self._learn(sequence, ids))
        for request_id in flight.ended:
            del self._requests[request_id]
            events.append(Released(request_id))
        return events

    # What to do

    def next_step(self, now: float) -> Step | None:
        """The next step to send now; None when the window is full or there is nothing to do."""
        if len(self._flights) >= self._pacing.steps_in_flight:
            return None
        self._admit()
        rows, iterations, seconds = self._plan_decode()
        chunks, prefill = self._plan_prefill(decoding=bool(rows))
        edits = self._pool.take_edits()
        if not (edits or rows or chunks):
            return None
        self._seq += 1
        step = Step(
            epoch=self._epoch,
            seq=Seq(self._seq),
            release=tuple(edits.release),
            park=tuple(edits.park),
            fork=tuple(edits.fork),
            admit=tuple(edits.admit),
            decode=tuple(rows),
            iterations=iterations,
            chunks=tuple(chunks),
        )
        self._launch(step, now, seconds, prefill)
        return step

    def expired(self, now: float) -> list[RequestId]:
        """Live requests past their deadline, or too long in the queue before they began."""
        return [
            sequence.request.id
            for sequence in self._requests.values()
            if sequence.finish is None and self._late(sequence, now)
        ]

    def _late(self, sequence: Sequence, now: float) -> bool:
        deadline = sequence.request.deadline
        if deadline is not None and now >= deadline:
            return True
        begun = sequence.slot is not None or sequence.tokens
        return not begun and now >= sequence.submitted + self._limits.queue_seconds

    # What is

    @property
    def last_seq(self) -> int:
        """Number of the last step made; 0 before the first."""
        return self._seq

    @property
    def steps_in_flight(self) -> int:
        return len(self._flights)

    @property
    def idle(self) -> bool:
        """True when no request is live and no step is in flight."""
        return not self._requests and not self._flights

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

    def flight_tokens(self) -> int:
        """Prompt tokens that the oldest step in flight prefills."""
        return sum(len(c.tokens) for c in self._flights[0].step.chunks) if self._flights else 0

    def overdue(self, now: float) -> bool:
        """True when the oldest step in flight is past its deadline: no progress, no health."""
        return bool(self._flights) and now > self._flights[0].deadline

    # Planning

    def _admit(self) -> None:
        """Give slots to those who wait, first come first served. Newcomers have the next turn
        at prefill, so that a short prompt need not wait behind every long one."""
        admitted: list[Sequence] = []
        while self._waiting and self._pool.admit(self._waiting[0]):
            admitted.append(self._waiting.popleft())
        self._prefilling.extendleft(reversed(admitted))

    def _plan_decode(self) -> tuple[list[Slot], int, float]:
        """Rows to decode, for how many iterations, and their predicted time together."""
        wanting = [q for q in self._pool.live.values() if q.wants_decode]
        if not wanting:
            return [], 0, 0.0
        left = min(q.request.max_tokens - q.planned_tokens for q in wanting)
        fit = self._decode_pace.iterations_within(len(wanting), self._pacing.decode)
        iterations = min(left, fit)
        # Those for which there is no room stay as they are until another sequence ends.
        rows = [q for q in wanting if self._pool.grow(q, q.planned_length + iterations)]
        if not rows:
            self._make_way(wanting)
            return [], 0, 0.0
        for sequence in rows:
            sequence.planned_tokens += iterations
        seconds = iterations * self._decode_pace.seconds(len(rows))
        self._share.decoded(seconds)
        return [q.slot for q in rows if q.slot is not None], iterations, seconds

    def _make_way(self, stuck: list[Sequence]) -> None:
        """Nobody has room to go on: the one admitted last gives up its slot, and begins anew
        when there is room for it. Only once nothing is in flight that may still make room."""
        if self._flights or self._prefilling or len(stuck) < 2:
            return
        sequence = stuck[-1]
        self._pool.retire(sequence)
        sequence.interrupt()
        self._waiting.appendleft(sequence)

    def _plan_prefill(self, *, decoding: bool) -> tuple[list[Chunk], float]:
        """The next chunk of the prompt whose turn it is, and whole remainders of others as far
        as the time of one chunk goes; and their predicted time together. None while it would
        make all prefill in flight too long (invariant 3)."""
        budget = self._pacing.chunk
        if not decoding:
            self._share.reset()
        elif not self._share.due:
            return [], 0.0
        else:
            budget *= self._pacing.prefill_share
        room = self._pacing.prefill_in_flight - sum(flight.prefill for flight in self._flights)
        alone = not any(flight.step.chunks for flight in self._flights)
        chunks: list[Chunk] = []
        planned = 0.0
        for _ in range(len(self._prefilling)):
            sequence = self._prefilling[0]
            start = sequence.planned_prefill
            left = len(sequence.feed) - start
            tokens = min(self._prefill_pace.tokens_within(start, budget - planned), left)
            seconds = self._prefill_pace.seconds(start, tokens)
            # A chunk may exceed its budget (pace.py), but not as an addition to another.
            if chunks and (tokens < left or planned + seconds > budget):
                break
            if planned + seconds > room and not (alone and not chunks):
                break
            chunks.append(self._plan_chunk(sequence, tokens))
            planned += seconds
            if decoding:
                self._share.prefilled(seconds)
            self._prefilling.rotate(-1)
            if not sequence.wants_prefill:
                self._prefilling.remove(sequence)
        return chunks, planned

    def _plan_chunk(self, sequence: Sequence, tokens: int) -> Chunk:
        assert sequence.slot is not None  # it is in _prefilling, so it was admitted
        start = sequence.planned_prefill
        sequence.planned_prefill = end = start + tokens
        last = end == len(sequence.feed)
        if last:
            sequence.planned_tokens = sequence.fed + 1
        return Chunk(sequence.slot, start, sequence.feed[start:end], sample=last)

    def _launch(self, step: Step, now: float, decode: float, prefill: float) -> None:
        predicted = decode + prefill
        deadline = (
            max(DEADLINE_FLOOR, DEADLINE_FACTOR * predicted) if predicted else (UNMEASURED_DEADLINE)
        )
        # A step begins when the one before it is done.
        begin = max([now, *(flight.deadline for flight in self._flights)])
        owners = {slot: self._pool.live[slot] for slot in step.decode}
        owners |= {chunk.slot: self._pool.live[chunk.slot] for chunk in step.chunks}
        ended = tuple(self._ended)
        self._flights.append(Flight(step, now, begin + deadline, owners, ended, prefill))
        self._ended.clear()

    # Learning

    def _observe(self, step: Step, result: StepResult) -> None:
        rows = len(step.decode)
        if rows:
            done = len(result.decoded) // rows
            self._decode_pace.observe(rows, done, result.decode_seconds)
        for chunk, seconds in zip(step.chunks, result.chunk_seconds, strict=True):
            self._prefill_pace.observe(chunk.start, len(chunk.tokens), seconds)

    def _learn(self, sequence: Sequence, ids: list[int]) -> list[Event]:
        """Ids were sampled for a sequence: deliver what belongs to its answer."""
        request = sequence.request
        if not ids:
            return []  # it had ended in the step before: every iteration was left out
        if sequence.finish is not None:
            return [Drained(request.id, len(ids))]
        taken: list[int] = []
        for token in ids:
            taken.append(token)
            if token in request.end_ids:
                sequence.finish = Finish.STOP
            elif len(sequence.tokens) + len(taken) >= request.max_tokens:
                sequence.finish = Finish.LENGTH
            if sequence.finish is not None:
                break
        sequence.tokens.extend(taken)
        text = taken[:-1] if taken[-1] in request.end_ids else taken
        events: list[Event] = [Sampled(request.id, tuple(text), len(taken), sequence.finish)]
        if len(taken) < len(ids):
            events.append(Drained(request.id, len(ids) - len(taken)))
        if sequence.finish is not None:
            self._retire(sequence)
        return events

    def _retire(self, sequence: Sequence) -> None:
        """Its slot is let go of in the next step."""
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        self._pool.retire(sequence)
        self._ended.append(sequence.request.id)


def _sampled_ids(flight: Flight, result: StepResult) -> list[tuple[Sequence, list[int]]]:
    """The ids that a step sampled, by sequence. Also notes how far prefill has come."""
    step = flight.step
    rows = len(step.decode)
    sampling = [chunk for chunk in step.chunks if chunk.sample]
    done, odd = divmod(len(result.decoded), rows) if rows else (0, len(result.decoded))
    shape = (done > step.iterations, len(result.prefilled), len(result.chunk_seconds))
    if odd or shape != (False, len(sampling), len(step.chunks)):
        raise StepRefused(f"result of step {step.seq} has not the shape of the step")
    sampled = [
        (flight.owners[slot], list(result.decoded[row::rows]))
        for row, slot in enumerate(step.decode)
    ]
    if done < step.iterations and not all(_has_ended(*row) for row in sampled):
        raise StepRefused(f"result of step {step.seq} leaves out what a sequence still wants")
    for chunk in step.chunks:
        flight.owners[chunk.slot].prefilled = chunk.start + len(chunk.tokens)
    for chunk, token in zip(sampling, result.prefilled, strict=True):
        sampled.append((flight.owners[chunk.slot], [token]))
    return sampled


def _has_ended(sequence: Sequence, ids: list[int]) -> bool:
    """True when nothing more is wanted of the sequence, or will be once it has these ids."""
    return sequence.finish is not None or not sequence.request.end_ids.isdisjoint(ids)
