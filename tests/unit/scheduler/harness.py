"""Scheduler, channels and reference engine wired together, as the coordinator does it.

Whatever a test makes happen, the harness checks the invariants of DESIGN.md along the way, and
keeps a readable log of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from cluster.core.channel import ChannelState, ChannelTable, TokenChannel
from cluster.core.clock import ManualClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import TandemError
from cluster.core.ids import Epoch, RequestId, Slot
from cluster.core.plan import Admit, Step, StepResult
from cluster.core.request import Finish, Piece, Request
from cluster.core.sampling import Sampling
from cluster.scheduler.events import Drained, Event, Released, Sampled
from cluster.scheduler.prefix import unpack
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.sequence import Sequence
from tests.unit.scheduler.disk import Disk
from tests.unit.scheduler.reference import Cost, ReferenceEngine, alone

EPOCH = Epoch(1)
TOLERANCE = 1e-9


@dataclass
class Tracked:
    """All that has become of one request."""

    request: Request
    channel: TokenChannel
    sequence: Sequence
    submitted: float
    ids: list[int] = field(default_factory=list)
    """Text delivered, in order."""
    tokens: int = 0
    """Delivered, an end id included."""
    finish: Finish | None = None
    released: bool = False
    drained: int = 0
    slot: Slot | None = None
    interruptions: int = 0
    """Times it had to give up its slot before its end."""
    let_go: int | None = None
    """Number of the step that took its slot away."""
    times: list[float] = field(default_factory=list)
    """When tokens came."""

    @property
    def longest_wait(self) -> float:
        """Between two deliveries."""
        return max(b - a for a, b in pairwise(self.times))


class Harness:
    """One epoch, driven by hand."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        pacing: Pacing | None = None,
        trimmable: bool = True,
        cost: Cost | None = None,
        lag: int = 2,
        end_ids: Iterable[int] = (),
        disk: Disk | None = None,
        disk_bytes: int = 0,
    ) -> None:
        self.limits = limits or Limits()
        self.pacing = pacing or Pacing()
        self.clock = ManualClock()
        self.channels = ChannelTable()
        self.disk = disk or Disk()
        self.shelved = tuple(self.disk.files.values())
        self.disk_bytes = disk_bytes
        self.scheduler = Scheduler(
            EPOCH,
            self.limits,
            self.pacing,
            trimmable=trimmable,
            end_ids=frozenset(end_ids),
            shelf=self.shelved,
            disk_bytes=disk_bytes,
        )
        self.engine = ReferenceEngine(
            EPOCH, trimmable=trimmable, cost=cost, limits=self.limits, lag=lag, disk=self.disk
        )
        self.tracked: dict[str, Tracked] = {}
        self.steps: list[Step] = []
        self.log: list[str] = []
        self._owner: dict[Slot, Tracked] = {}
        """Whose slot it is, by the steps sent."""

    # What clients do

    def submit(
        self,
        name: str,
        prompt: Iterable[int],
        max_tokens: int = 4,
        *,
        seed: int = 0,
        end_ids: Iterable[int] = (),
        scope: str = "",
        deadline: float | None = None,
        min_tokens: int = 0,
        logprobs: int | None = None,
        grammar: str = "",
        draft: int = 0,
    ) -> Tracked:
        """Raises what the scheduler raises; then no channel is left behind."""
        request = Request(
            RequestId(name),
            tuple(prompt),
            max_tokens,
            Sampling(seed=seed),
            frozenset(end_ids),
            scope,
            deadline,
            min_tokens,
            logprobs,
            grammar,
            draft,
        )
        channel = TokenChannel(request.id, self.channels)
        what = f"submit {name}: {len(request.prompt)} prompt tokens, at most {max_tokens} new"
        try:
            sequence = self.scheduler.submit(channel, request, self.clock.now())
        except TandemError as error:
            self.channels.remove(request.id)
            self._say(f"{what}: {type(error).__name__}: {error}")
            raise
        self._say(what)
        tracked = Tracked(request, channel, sequence, self.clock.now())
        self.tracked[name] = tracked
        return tracked

    def end(self, name: str, finish: Finish = Finish.CANCELLED) -> None:
        """Over for its client; whatever its state, this is allowed."""
        self._say(f"end {name}: {finish}")
        tracked = self.tracked[name]
        if tracked.finish is None:
            tracked.finish = finish
            tracked.channel.close(finish)
        self._tell(self.scheduler.end(tracked.request.id, finish), None)
        self._order()

    # What the coordinator and the ranks do

    def plan(self) -> Step | None:
        """Send the next step, if there is one."""
        before = self.scheduler.steps_in_flight
        step = self.scheduler.next_step(self.clock.now())
        self._order()
        if step is None:
            return None
        assert before < self.pacing.steps_in_flight, "too many steps in flight"
        assert self.scheduler.steps_in_flight == before + 1
        assert step.seq == self.scheduler.last_seq == len(self.steps) + 1
        self.steps.append(step)
        self._say(render(step))
        self._note_owners(step)
        self._check_bounds(step)
        self.engine.take(step, self.clock.now())
        assert len(self.engine.unanswered) == self.scheduler.steps_in_flight
        return step

    def answer(self) -> bool:
        """Answer the oldest step in flight; False when there is none."""
        if not self.engine.unanswered:
            return False
        at = self.engine.unanswered[0].at
        self.clock.advance(max(0.0, at - self.clock.now()))
        result = self.engine.answer()
        self._say(render_result(result))
        self._tell(self.scheduler.apply(result, self.clock.now()), result)
        return True

    def hear(self, place: int = 0, *, ok: bool = True) -> bool:
        """All ranks answer something about files; False when nothing is pending."""
        if place >= len(self.disk.pending):
            return False
        news = self.disk.answer(place, ok=ok)
        self._say(f"{news.verb} {news.entry[:4]}: {'ok' if news.ok else news.reason or 'failed'}")
        self.scheduler.shelf_news(news)
        self._order()
        return True

    def _order(self) -> None:
        for order in self.scheduler.take_shelf_orders():
            self._say(f"{order.verb} {order.entry[:4]}")
            self.disk.order(order)

    def run(self, until: Callable[[], object] = lambda: False, most: int = 100_000) -> None:
        """Go on until `until()` holds or nothing is left to do."""
        for _ in range(most):
            if until():
                return
            while self.plan():
                pass
            if not (self.answer() or self.hear()):
                return
        raise AssertionError(f"not done after {most} steps")

    def settle(self) -> None:
        """Let all requests end, then check that nothing is left and every text is right."""
        self.run()
        scheduler = self.scheduler
        waiting = [name for name, tracked in self.tracked.items() if not tracked.released]
        assert not waiting, f"nothing left to do, but {waiting} wait"
        assert scheduler.idle
        assert scheduler.steps_in_flight == 0
        sampled = self.engine.decoded_tokens + sum(
            chunk.sample for step in self.steps for chunk in step.chunks
        )
        tokens = sum(tracked.tokens + tracked.drained for tracked in self.tracked.values())
        assert tokens == sampled, "tokens that went nowhere"
        assert scheduler.live_slots == 0
        assert not scheduler.sequences
        assert scheduler.next_step(self.clock.now()) is None
        assert not scheduler._turns
        assert not scheduler._rows
        assert not scheduler._pool._held
        assert not scheduler._ended
        assert scheduler._pool._reserved == 0
        assert not scheduler.overdue(self.clock.now() + 1e9)
        assert len(self.channels) == 0
        assert self.channels.orphan_tokens == 0
        assert self.channels.drained_tokens == sum(t.drained for t in self.tracked.values())
        assert not self.engine.live
        index = scheduler._pool._index
        held = {slot: list(unpack(index[slot].ids)) for slot in index}
        assert held == {slot: cache.ids for slot, cache in self.engine.parked.items()}
        assert index.weight == self.engine.used
        self._check_shelf()
        for tracked in self.tracked.values():
            check_text(tracked)

    # Checks

    def _check_shelf(self) -> None:
        shelf = self.scheduler._shelf
        assert not self.scheduler.awaits_shelf
        assert not (
            shelf._staging
            or shelf._restoring
            or shelf._unanswered
            or self.scheduler._admission._staged
        )
        assert not self.disk.staged
        assert not self.disk.pending
        kept = {entry: unpack(shelf._index[entry].ids) for entry in shelf._index}
        if self.disk_bytes:
            assert kept == {entry: each.ids for entry, each in self.disk.files.items()}
            assert shelf.size == self.disk.size
            largest = max((each.size for each in self.disk.files.values()), default=0)
            assert shelf.size <= self.disk_bytes + largest  # one may have been in use
        for slot in self.scheduler._pool._index:
            assert slot in shelf._seen or shelf.full or not self.disk_bytes

    def _note_owners(self, step: Step) -> None:
        """Who loses and who gets a slot, told from the steps alone."""
        for slot in (*step.release, *(park.slot for park in step.park)):
            owner = self._owner.pop(slot, None)
            if owner is not None and owner.finish is None:
                self._interrupted(owner)
            elif owner is not None:
                assert owner.let_go is None
                owner.let_go = step.seq
        for tracked in self._owner.values():
            assert tracked.finish is None, f"step {step.seq} goes on with {tracked.request.id}"
        for admit in step.admit:
            (owner,) = (
                tracked
                for tracked in self.tracked.values()
                if tracked.slot is None and tracked.sequence.slot == admit.slot
            )
            owner.slot = admit.slot
            assert admit.sampling == owner.request.sampling
            assert frozenset(admit.end_ids) == owner.request.end_ids
            assert admit.keep < len(owner.sequence.feed)
            if admit.draft or admit.grammar:
                assert admit.generated == owner.sequence.feed[len(owner.request.prompt) :]
            assert owner.interruptions or owner.sequence.cached == admit.keep
            self._check_scope(owner, admit.keep)
            self._owner[admit.slot] = owner

    def _interrupted(self, owner: Tracked) -> None:
        """It gives up its slot and will begin anew: only so that others can go on."""
        assert owner.sequence.slot is None, f"{owner.request.id} lost its slot too early"
        assert len(self._owner) > 0, "nobody has any use of it"
        assert owner.tokens == len(owner.sequence.tokens) == owner.sequence.fed > 0
        owner.slot = None
        owner.interruptions += 1
        self._say(f"  {owner.request.id}: interrupted")

    def _check_scope(self, owner: Tracked, keep: int) -> None:
        """A prefix may only come from a request of the same scope."""
        wanted = owner.sequence.feed[:keep]
        assert (
            not wanted
            or any(
                (other.request.prompt + tuple(other.sequence.tokens))[: len(wanted)] == wanted
                for other in self.tracked.values()
                if other.request.scope == owner.request.scope
                and (other is not owner or owner.interruptions)
            )
            or any(
                each.scope == owner.request.scope and each.ids[: len(wanted)] == wanted
                for each in self.shelved
            )
        ), f"{owner.request.id} reuses what its scope never computed"

    def _check_bounds(self, step: Step) -> None:
        """Invariant 3: decode as it really is, prefill as it was predicted."""
        flights = self.scheduler._flights
        cost = self.engine.cost
        seconds = sum(f.step.iterations * cost.decode(len(f.step.decode)) for f in flights)
        assert step.iterations <= 1 or seconds <= self.pacing.decode_in_flight + TOLERANCE
        prefill = sum(flight.prefill for flight in flights)
        chunks = sum(len(flight.step.chunks) for flight in flights)
        assert chunks <= 1 or prefill <= self.pacing.prefill_in_flight + TOLERANCE

    def _tell(self, events: list[Event], result: StepResult | None) -> None:
        for event in events:
            tracked = self.tracked[event.request_id]
            assert not tracked.released, f"{event} after its release"
            match event:
                case Sampled():
                    self._sampled(tracked, event)
                case Drained(count=count):
                    assert tracked.finish is not None, f"{event} before its end"
                    assert count > 0
                    assert self.channels.find(event.request_id, count) is None
                    tracked.drained += count
                    self._say(f"  {event.request_id}: {count} past the end")
                case Released():
                    self._release(tracked, result)

    def _sampled(self, tracked: Tracked, event: Sampled) -> None:
        assert tracked.finish is None, f"{event} after its end"
        assert event.count > 0
        asked = tracked.request.logprobs is not None
        assert [-it.logprob for it in event.likelihoods] == (list(event.ids) if asked else [])
        channel = self.channels.find(event.request_id, event.count)
        assert channel is tracked.channel
        channel.put(Piece(" ".join(map(str, event.ids)), event.count))
        tracked.ids.extend(event.ids)
        tracked.tokens += event.count
        tracked.times.append(self.clock.now())
        text = " ".join(map(str, event.ids)) or "nothing"
        if event.finish is not None:
            tracked.finish = event.finish
            channel.close(event.finish)
            text += f", ends: {event.finish}"
        self._say(f"  {event.request_id}: {text}")

    def _release(self, tracked: Tracked, result: StepResult | None) -> None:
        assert tracked.finish is not None
        if tracked.slot is None:
            assert result is None, "a queued request is let go at once"
        else:
            assert result is not None
            assert tracked.let_go == result.seq, "let go before every rank has"
        assert tracked.channel.state is ChannelState.DRAINING
        tracked.released = True
        self.channels.remove(tracked.request.id)
        self._say(f"  {tracked.request.id}: released")

    def _say(self, line: str) -> None:
        self.log.append(f"{self.clock.now():7.3f}  {line}")


def check_text(tracked: Tracked) -> None:
    """What was delivered is what the request gets when it is alone."""
    expected = alone(tracked.request)
    ended = bool(expected) and expected[-1] in tracked.request.end_ids
    text = expected[:-1] if ended else expected
    if tracked.tokens == len(expected):
        assert tuple(tracked.ids) == text
        assert tracked.finish is (Finish.STOP if ended else Finish.LENGTH)
    else:
        assert tracked.finish in (Finish.CANCELLED, Finish.STOP), "not all, but not cut short"
        assert tracked.tokens == len(tracked.ids)
        assert tuple(tracked.ids) == text[: tracked.tokens]


def render(step: Step) -> str:
    """A step in one line."""
    parts = [f"release {slot}" for slot in step.release]
    parts += [f"park {park.slot} keep {park.keep}" for park in step.park]
    parts += [f"save {save.slot} as {save.entry[:4]}" for save in step.save]
    parts += [f"fork {fork.source} to {fork.slot} keep {fork.keep}" for fork in step.fork]
    parts += [f"restore {r.slot} from {r.entry[:4]}" for r in step.restore]
    parts += [f"admit {a.slot} keep {a.keep}{_drafts(a)}" for a in step.admit]
    if step.decode:
        parts.append(f"decode {' '.join(map(str, step.decode))} x {step.iterations}")
    parts += [
        f"chunk {c.slot} [{c.start}, {c.start + len(c.tokens)}){' sample' if c.sample else ''}"
        for c in step.chunks
    ]
    return f"step {step.seq}: {'; '.join(parts)}"


def render_result(result: StepResult) -> str:
    """A result in one line."""
    parts = []
    if result.decoded:
        parts.append(f"decoded {' '.join(map(str, result.decoded))}")
    if result.counts:
        parts.append(f"counts {' '.join(map(str, result.counts))}")
    if result.prefilled:
        parts.append(f"prefilled {' '.join(map(str, result.prefilled))}")
    return f"result {result.seq}: {'; '.join(parts) or 'done'}"


def _drafts(admit: Admit) -> str:
    return f" draft {admit.draft}" if admit.draft else ""
