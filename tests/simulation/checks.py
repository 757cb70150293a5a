"""The invariants of DESIGN.md, asserted from outside while a simulation runs and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from cluster.core.channel import ChannelState
from cluster.core.errors import (
    DeadlinePassed,
    NodeLost,
    NotReady,
    QueueFull,
    RequestCrashes,
    TandemError,
)
from cluster.core.ids import RequestId
from cluster.core.plan import Step, StepResult
from cluster.core.request import Finish
from cluster.membership.roster import DEAD_SECONDS
from cluster.scheduler.pace import FIRST_CHUNK, GROWTH
from cluster.scheduler.scheduler import DEADLINE_FACTOR, DEADLINE_FLOOR, UNMEASURED_DEADLINE
from cluster.scheduler.sequence import CLEARED, SUSPECT, Sequence

if TYPE_CHECKING:
    from cluster.coordinator.journal import Entry
    from tests.simulation.client import Client
    from tests.simulation.formation import Formation
    from tests.simulation.head import Head
    from tests.simulation.runner import Runner
    from tests.unit.scheduler.reference import Cost

INVARIANTS = {
    1: "channel first",
    2: "one plan",
    3: "ahead, but bounded",
    4: "cancel is an edit",
    5: "prefill is cut by time",
    6: "the same text in any batch and on any number of ranks",
    7: "progress is health",
    8: "nothing lost, nothing twice",
    9: "say so",
    10: "everything is bounded",
    11: "state returns to zero",
}
LATE = 1.0
"""Seconds within which something that is due is noticed."""
TOLERANCE = 1e-9
CHUNK, FIRST_CHUNKS = 2.5, 2 * GROWTH + 0.5
"""A chunk may take so many times its bound; and more, as far as a chunk may grow, while little
was measured: where times vary by a tenth, sizes and places of the first few tell little."""
LEARNED = 8
"""Chunks after which enough was measured."""


class Violated(AssertionError):
    """Raised when an invariant does not hold."""

    def __init__(self, invariant: int, what: str) -> None:
        super().__init__(f"invariant {invariant} ({INVARIANTS[invariant]}): {what}")
        self.invariant = invariant


def require(invariant: int, holds: object, what: str) -> None:
    if not holds:
        raise Violated(invariant, what)


def others(runner: Runner, entry: Entry) -> list[str]:
    """The groups beside `runner` that could go on with a request now."""
    return [
        other.name
        for other in runner.head.runners
        if other is not runner
        and other.coordinator.scheduler is not None
        and other.coordinator.fits(entry)
    ]


class Crash(NamedTuple):
    """Of an epoch, as one request that had a slot in it is blamed for it."""

    tokens: int
    """It had."""
    alone: bool
    """Nobody else had a slot."""


class Checks:
    """Told of all that happens in one run."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._by_request: dict[str, Client] = {}
        self._cancels: list[tuple[Runner, Sequence, int]] = []
        """Cancelled with a slot, which the next step must give back."""
        self._real: set[str] = set()
        """Secrets of epochs in which an engine has crashed by itself."""
        self.crashes: dict[str, list[Crash]] = {}
        """By request: those it was blamed for."""
        self._slots: dict[Formation, list[Sequence]] = {}
        """Who had a slot when an epoch ended."""
        self._down: dict[Runner, float] = {}
        """Since when it has had no engines, if it has none."""
        self.slowed = False
        """An engine was slow for a while: what was measured then is no guide."""
        self.replays = 0
        self.moves = 0
        """Hand-overs from group to group."""
        self.epochs = 0
        self.steps = 0

    # Clients

    def submitted(self, client: Client) -> None:
        assert client.generation is not None
        self._by_request[client.generation.id] = client

    def cancelled(self, client: Client) -> None:
        assert client.generation is not None and client.head is not None
        require(4, client.generation.finish, f"{client.wish.name} hangs up, and nobody hears it")
        sequence = client.generation._entry.sequence
        runner = client.head.holder(client.generation.id)
        scheduler = runner.coordinator.scheduler if runner is not None else None
        if scheduler is not None and sequence.slot is not None and sequence.finish is not None:
            assert runner is not None
            self._cancels.append((runner, sequence, scheduler.last_seq + 1))

    def refused(self, head: Head | None, error: TandemError) -> None:
        """A request is not taken: not for want of room, while a group has some."""
        if head is None or not isinstance(error, QueueFull):
            return
        limits = head.machine.limits
        lives = [len(runner.coordinator.live.journal) for runner in head.runners]
        if len(lives) > 1 and sum(lives) >= len(lives) * (limits.queue + limits.sequences):
            return
        for runner in head.runners:
            scheduler = runner.coordinator.scheduler
            if scheduler is not None and not scheduler.overdue(head.world.now()):
                full = scheduler.waiting >= limits.queue
                require(10, full, f"{runner.name} has room, and a request is refused")

    def read(self, client: Client) -> None:
        """It has got another piece."""
        if client.expected[0].startswith(client.text):
            return
        known = len(client.text) - 1
        while not client.expected[0].startswith(client.text[:known]):
            known -= 1
        again = any(before <= known for before in client.replays)
        raise Violated(
            8 if again else 6,
            f"{client.wish.name} reads {client.text!r}, not {client.expected[0]!r} "
            f"(begun again after {client.replays})",
        )

    def finished(self, client: Client, finish: Finish, error: TandemError | None) -> None:
        """It has read all there will be."""
        assert client.generation is not None
        name, text = client.wish.name, client.text
        match finish:
            case Finish.CANCELLED:
                require(9, client.wish.cancels is not None, f"{name} did not hang up")
            case Finish.FAILED:
                require(9, error is not None, f"{name} is not told what went wrong")
                self._failed(client, error)
            case _:
                whole = (text, finish) == client.expected
                require(9, whole, f"{name} ends with {finish} and {text!r}, not {client.expected}")
                require(9, error is None, f"{name} has succeeded, with {error!r}")

    def _failed(self, client: Client, error: TandemError | None) -> None:
        """Only for a reason that counts."""
        assert client.generation is not None and client.head is not None
        name = client.wish.name
        if isinstance(error, RequestCrashes):
            crashes = self.crashes.get(client.generation.id, [])
            known = len(crashes) > 2 and crashes[-1].alone
            require(8, known, f"{name} is blamed after {crashes}")
            return
        limits = client.head.machine.limits
        waited = client.head.world.now() - client.generation._entry.sequence.submitted
        shortest = min(limits.request_seconds, limits.queue_seconds)
        if isinstance(error, DeadlinePassed):
            require(8, waited >= shortest - TOLERANCE, f"{name} fails after {waited:.1f} s")
        else:
            runner = client.head.holder(client.generation.id)
            assert runner is not None
            down = client.head.world.now() - self._down.get(runner, 0.0)
            known = isinstance(error, NotReady) and down >= limits.recovery_seconds - TOLERANCE
            require(8, known, f"{name} is lost after {down:.1f} s without engines: {error!r}")
            entry = client.generation._entry
            there = [] if entry.sequence.alone else others(runner, entry)
            require(8, not there, f"{name} is lost, and {there} could go on: {error!r}")

    # The plan

    def sent(self, runner: Runner, step: Step) -> None:
        """A step is about to be sent to all ranks."""
        self.steps += 1
        now, coordinator = runner.head.world.now(), runner.coordinator
        scheduler = coordinator.scheduler
        assert scheduler is not None
        pool = scheduler._pool
        flights = scheduler._flights
        own = flights[-1]
        for admit in step.admit:
            sequence = pool.live[admit.slot]
            known = sequence.request.id in coordinator.live.channels
            require(1, known, f"step {step.seq} admits a request that has no channel")
            client = self._by_request.get(sequence.request.id)
            if client is not None and sequence.begun != now:
                client.replays.append(len(sequence.tokens))
                self.replays += 1
        require(3, len(flights) <= 2, f"{len(flights)} steps are in flight")
        cost = self._cost
        decode = sum(f.step.iterations * cost.decode(len(f.step.decode)) for f in flights)
        predicted = sum(flight.decode for flight in flights)
        bound = coordinator.pacing.decode_in_flight
        require(
            3,
            step.iterations <= 1 or predicted <= bound + TOLERANCE,
            f"decode in flight takes {predicted:.3f} s ({decode:.3f} s at best)",
        )
        prefill = sum(flight.prefill for flight in flights)
        chunks = sum(len(flight.step.chunks) for flight in flights)
        require(
            3,
            chunks <= 1 or prefill <= coordinator.pacing.prefill_in_flight + TOLERANCE,
            f"prefill in flight takes {prefill:.3f} s",
        )
        for chunk in step.chunks:
            seconds = cost.prefill(chunk.start, len(chunk.tokens))
            learned = scheduler.pace.prefill._count >= LEARNED and not self.slowed
            most = (CHUNK if learned else FIRST_CHUNKS) * coordinator.pacing.chunk
            fits = seconds <= most or len(chunk.tokens) <= FIRST_CHUNK
            require(5, fits, f"a chunk of {len(chunk.tokens)} takes {seconds:.2f} s")
        for sequence in own.owners.values():
            over = sequence.finish is not None
            require(4, not over, f"step {step.seq} goes on with {sequence.request.id}")
        if self._cancels:
            self._dropped(runner, step)

    def _dropped(self, runner: Runner, step: Step) -> None:
        gone = {*step.release, *(park.slot for park in step.park)}
        for where, sequence, seq in self._cancels:
            if where is runner and step.seq == seq:
                left = sequence.slot in gone
                require(4, left, f"step {seq} keeps a slot that was given up before it")
        self._cancels = [each for each in self._cancels if each[0] is not runner]

    def apply(self, formation: Formation, result: StepResult) -> None:
        """All ranks have answered a step, and they agree."""
        group = formation.head.groups.of(formation.places[0].spec)
        same = result.seq not in group.differing
        require(2, same, f"the ranks' slots differ after step {result.seq}")

    def applied(self, runner: Runner) -> None:
        orphans = runner.coordinator.live.channels.orphan_tokens
        require(1, not orphans, f"{orphans} tokens had no channel")

    # Epochs

    def crash(self, secret: str) -> None:
        """An engine of this epoch crashes by itself."""
        self._real.add(secret)

    def over(self, formation: Formation, error: TandemError) -> None:
        """The epoch is about to end."""
        self.epochs += 1
        head, runner = formation.head, formation.runner
        self._cancels = [each for each in self._cancels if each[0] is not runner]
        if not formation.running:
            return
        coordinator = runner.coordinator
        self._down[runner] = head.world.now()
        silent = coordinator.silent_for()
        scheduler = coordinator.scheduler
        assert scheduler is not None
        self._slots[formation] = list(scheduler._pool.live.values())
        gone = any(not head.groups.of(p.spec).engines[p.spec.plan.rank].alive
                   for p in formation.places)  # fmt: skip
        if type(error) is NodeLost and not gone and scheduler.steps_in_flight:
            require(7, silent > DEAD_SECONDS, f"steps advanced {silent:.1f} s ago: {error}")

    def blamed(self, runner: Runner, formation: Formation, error: TandemError) -> None:
        """Those who had a slot are about to be blamed for it."""
        real = formation.secret in self._real
        slots = self._slots.pop(formation, [])
        wrong = runner.coordinator.live.suspects and not formation.running
        require(8, not wrong, "requests are blamed for an epoch that never began")
        live = [q for q in slots if q.finish is None]
        if live:
            require(8, real, f"requests are blamed though no engine crashed: {error!r}")
        for sequence in live:
            crashes = self.crashes.setdefault(sequence.request.id, [])
            stuck = [crash.tokens for crash in crashes[-SUSPECT - 1 :]]
            stuck.append(len(sequence.tokens))
            known = len(stuck) > SUSPECT + 1 and stuck[-1] - stuck[0] < CLEARED
            require(8, not known, f"engines crash again and again on {sequence.request.id}")
            crashes.append(Crash(len(sequence.tokens), len(slots) == 1))

    # Groups

    def moved(self, head: Head, before: Mapping[RequestId, Runner]) -> None:
        """What groups could not go on with has been handed over. `before` says who had what."""
        if len(head.runners) < 2:
            return
        for request_id, client in self._by_request.items():
            if client.head is not head or not client.live:
                continue
            lives = [runner.coordinator.live for runner in head.runners]
            journals = [request_id in live.journal for live in lives]
            name = client.wish.name
            require(8, sum(journals) == 1, f"{name} is in {sum(journals)} journals")
            same = journals == [request_id in live.channels for live in lives]
            require(1, same, f"{name} and its channel are in different groups")
            there = head.runners[journals.index(True)]
            if before[request_id] is not there:
                self.moves += 1
                there.say(f"goes on with {name}")

    # Now and then

    def look(self, runner: Runner) -> None:
        head, coordinator = runner.head, runner.coordinator
        limits, now = head.machine.limits, head.world.now()
        scheduler = coordinator.scheduler
        schedulers = [each.coordinator.scheduler for each in head.runners]
        waiting = sum(each.waiting for each in schedulers if each is not None)
        live = scheduler.live_slots if scheduler is not None else 0
        parked = scheduler.parked_slots if scheduler is not None else 0
        most = len(head.runners) * (limits.queue + limits.sequences)
        require(10, waiting <= most, f"{waiting} requests wait")
        require(10, live <= limits.sequences, f"{live} slots are taken")
        require(10, parked <= limits.parked, f"{parked} prefixes are parked")
        for entry in coordinator.live.journal.values():
            if entry.channel.state is not ChannelState.OPEN:
                continue
            sequence = entry.sequence
            age = now - sequence.submitted
            begun = sequence.begun is not None
            allowed = limits.request_seconds if begun else limits.queue_seconds
            require(10, age <= allowed + LATE, f"a request is {age:.0f} s old")
            if scheduler is None and coordinator.settled and not sequence.alone:
                there = others(runner, entry)
                require(8, not there, f"{sequence.request.id} waits, and {there} could go on")
        if scheduler is not None and scheduler._flights:
            oldest = scheduler._flights[0]
            predicted = oldest.decode + oldest.prefill
            allowed = max(DEADLINE_FLOOR, DEADLINE_FACTOR * predicted)
            if not predicted:
                allowed = UNMEASURED_DEADLINE
            took = now - max(oldest.sent, scheduler._answered)
            require(7, took <= allowed + LATE, f"a step is stuck for {took:.1f} s")

    # The end

    def left(self, head: Head) -> None:
        """Nothing is, once all requests are over."""
        for runner in head.runners:
            self._left(runner)

    def _left(self, runner: Runner) -> None:
        head, coordinator = runner.head, runner.coordinator
        require(11, not coordinator.live.journal, f"{len(coordinator.live.journal)} in the journal")
        require(11, not coordinator.live.channels, f"{len(coordinator.live.channels)} channels")
        scheduler = coordinator.scheduler
        if scheduler is not None:
            require(11, scheduler.idle, "the plan is not empty")
            require(11, not scheduler.live_slots, f"{scheduler.live_slots} slots")
            require(11, not scheduler._pool._reserved, "positions are set aside")
            require(11, not scheduler.waiting, f"{scheduler.waiting} wait")
        formation = runner.forming
        if formation is not None and formation.running:
            group = head.groups.of(formation.places[0].spec)
            held = group.live(head.incarnation)
            require(11, not held, f"engines hold {held} slots")
            for line in formation.lines:
                require(11, not line.results, "results that nobody wants")
                require(11, not line.session.kept, "messages that are not acknowledged")
