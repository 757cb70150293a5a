"""Safeguards of the product, each of which can be switched off: then the simulation must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.live import LiveRequests
from cluster.coordinator.served import Served
from cluster.core.channel import ChannelTable
from cluster.core.config import Pacing
from cluster.core.engine_protocol import Fence, StepWindow
from cluster.core.request import Finish
from cluster.core.session import Session
from cluster.membership.epochs import Epochs
from cluster.node.launches import Launches
from cluster.scheduler import slots
from cluster.scheduler.events import Released
from cluster.scheduler.pace import DecodePace, PrefillPace
from cluster.scheduler.prefix import pack
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.sequence import Sequence
from tests.simulation import formation, head
from tests.simulation.cluster import Plan, replicated, small
from tests.simulation.world import World

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """What is switched off, which invariant it was for, and the faults and plans that show it."""

    name: str
    invariant: int
    apply: Callable[[Patch], None]
    faults: tuple[str, ...] = ()
    make: Callable[[World], Plan] = small


def _late_channel(patch: Patch) -> None:
    find = ChannelTable.find

    def late(self: Any, request_id: Any, tokens: int) -> Any:
        found = find(self, request_id, tokens)
        for channel in self.__dict__.pop("late", ()):
            self._channels[channel.request_id] = channel
        return found

    def wait(self: Any, channel: Any) -> None:
        self.__dict__.setdefault("late", []).append(channel)

    patch.setattr(ChannelTable, "register", wait)
    patch.setattr(ChannelTable, "find", late)


def _steps_twice(patch: Patch) -> None:
    """What is sent again after a break counts again, and no engine looks at numbers."""
    receive = Session.receive

    def always(self: Any, number: int, acknowledged: int) -> bool:
        return receive(self, number, acknowledged) or number > 0

    def take(self: Any, step: Any) -> None:
        self._seq += 1
        self.taken += 1

    def from_the_start(self: Any, received: int) -> None:
        self._written = self.acknowledged
        self._told = self.received

    patch.setattr(Session, "receive", always)
    patch.setattr(Session, "resume", from_the_start)
    patch.setattr(StepWindow, "take", take)


def _no_digest(patch: Patch) -> None:
    patch.setattr(formation, "agreed", lambda results: results[0])


def _not_fenced(patch: Patch) -> None:
    admit = Fence.admit

    def anybody(self: Any, mine: Any, theirs: Any) -> bool:
        self.incarnation = min(self.incarnation, theirs.incarnation)
        return admit(self, mine, theirs)

    patch.setattr(Fence, "admit", anybody)


def _taken_anyhow(patch: Patch) -> None:
    patch.setattr(formation, "check_taken", lambda facts: None)


def _three_ahead(patch: Patch) -> None:
    patch.setattr(head, "Pacing", lambda: Pacing(steps_in_flight=3))


def _long_steps(patch: Patch) -> None:
    patch.setattr(DecodePace, "iterations_within", lambda self, rows, budget: 50)


def _cancel_later(patch: Patch) -> None:
    retire = Scheduler._retire

    def keep(self: Any, sequence: Any) -> None:
        if sequence.finish is not Finish.CANCELLED:
            retire(self, sequence)

    patch.setattr(Scheduler, "_retire", keep)


def _whole_prompts(patch: Patch) -> None:
    patch.setattr(PrefillPace, "tokens_within", lambda self, start, budget: 1 << 20)


def _seed_of_the_slot(patch: Patch) -> None:
    admit = slots._admit

    def other(sequence: Any, slot: Any, keep: int) -> Any:
        made = admit(sequence, slot, keep)
        return replace(made, sampling=replace(made.sampling, seed=100 + slot))

    patch.setattr(slots, "_admit", other)


def _agents_not_fenced(patch: Patch) -> None:
    of = Launches.of

    def anybody(self: Any, secret: str, incarnation: int) -> Any:
        self._newest.update(dict.fromkeys(self._newest, 0))
        return of(self, secret, incarnation)

    patch.setattr(Launches, "of", anybody)


def _agents_forget(patch: Patch) -> None:
    forget = Launches.forget

    def all_of_it(self: Any, launch: Any) -> None:
        forget(self, launch)
        if launch.spec.secret not in {each.spec.secret for each in self}:
            self._newest.pop(launch.spec.secret, None)

    patch.setattr(Launches, "forget", all_of_it)


def _never_overdue(patch: Patch) -> None:
    patch.setattr(Scheduler, "overdue", lambda self, now: False)


def _heartbeats_decide(patch: Patch) -> None:
    look = Epochs.look

    def silent(self: Any, now: float, *, silent: float, idle: bool) -> None:
        look(self, now, silent=1e9, idle=idle)

    patch.setattr(Epochs, "look", silent)


def _prompt_only(patch: Patch) -> None:
    interrupt = Sequence.interrupt

    def forget(self: Any) -> None:
        interrupt(self)
        self.feed = self.request.prompt
        self.wanted = pack(self.feed[:-1])
        self.planned_tokens = 0

    patch.setattr(Sequence, "interrupt", forget)


def _blame_for_all(patch: Patch) -> None:
    patch.setattr(Epochs, "ended", lambda self, error: True)


def _early_success(patch: Patch) -> None:
    close = LiveRequests._close

    def well(self: Any, entry: Any, finish: Finish, error: Any = None) -> None:
        close(self, entry, Finish.LENGTH if finish is Finish.FAILED else finish)

    patch.setattr(LiveRequests, "_close", well)


def _nobody_told(patch: Patch) -> None:
    close = LiveRequests._close

    def silently(self: Any, entry: Any, finish: Finish, error: Any = None) -> None:
        close(self, entry, finish)

    patch.setattr(LiveRequests, "_close", silently)


def _long_queue(patch: Patch) -> None:
    def submit(self: Any, channel: Any, request: Any, now: float) -> Sequence:
        sequence = Sequence(request, now)
        self.resume(channel, sequence)
        return sequence

    patch.setattr(Scheduler, "submit", submit)


def _no_deadlines(patch: Patch) -> None:
    patch.setattr(Sequence, "late", lambda self, now, queue_seconds: False)


def _never_released(patch: Patch) -> None:
    handle = LiveRequests.handle

    def keep(self: Any, event: Any) -> None:
        if not isinstance(event, Released):
            handle(self, event)

    patch.setattr(LiveRequests, "handle", keep)


def _in_no_journal(patch: Patch) -> None:
    take = LiveRequests.take

    def lose(self: Any, entry: Any, traced: Any) -> None:
        take(self, entry, traced)
        del self.journal[entry.request.id]

    patch.setattr(LiveRequests, "take", lose)


def _given_and_kept(patch: Patch) -> None:
    give = LiveRequests.give

    def keep(self: Any, request_id: Any) -> Any:
        entry, traced = give(self, request_id)
        self.journal[request_id] = entry
        self.channels.register(entry.channel)
        return entry, traced

    patch.setattr(LiveRequests, "give", keep)


def _blame_stays(patch: Patch) -> None:
    take = LiveRequests.take

    def forgive(self: Any, entry: Any, traced: Any) -> None:
        entry.sequence.crashes = 0
        take(self, entry, traced)

    patch.setattr(LiveRequests, "take", forgive)


def _token_again(patch: Patch) -> None:
    take = LiveRequests.take

    def again(self: Any, entry: Any, traced: Any) -> None:
        if entry.sequence.tokens:
            del entry.sequence.tokens[-1]
            entry.sequence.interrupt()
        take(self, entry, traced)

    patch.setattr(LiveRequests, "take", again)


def _old_cancel(patch: Patch) -> None:
    take = LiveRequests.take

    def as_before(self: Any, entry: Any, traced: Any) -> None:
        cancel = entry.cancel
        take(self, entry, traced)
        entry.cancel = cancel

    patch.setattr(LiveRequests, "take", as_before)


def _never_moved(patch: Patch) -> None:
    patch.setattr(Served, "move", lambda self: None)


def _full_or_not(patch: Patch) -> None:
    patch.setattr(Coordinator, "full", False)


def _together_or_not_at_all(patch: Patch) -> None:
    failed = Epochs.failed
    patch.setattr(Epochs, "failed", lambda self, error, *, others=False: failed(self, error))


AGENTS = ("stop an agent",)
CUTS = ("cut",)
CRASHES = ("kill an engine", "fail an engine")
HEADS = ("kill the head",)
STUCK = ("stop an engine", "slow an engine")
TAKEN_OVER = ("replace the head",)

MUTATIONS = (
    Mutation("a channel is registered when its first token comes", 1, _late_channel),
    Mutation("what is sent again is done again", 2, _steps_twice, CUTS),
    Mutation("digests are not compared", 2, _no_digest, ("drift",)),
    Mutation("an engine listens to any coordinator", 2, _not_fenced, TAKEN_OVER),
    Mutation("a plan begins where ranks have taken different steps", 2, _taken_anyhow, HEADS),
    Mutation("three steps are in flight", 3, _three_ahead),
    Mutation("steps are long", 3, _long_steps),
    Mutation("a cancelled request keeps its slot", 4, _cancel_later),
    Mutation("prompts are not cut", 5, _whole_prompts),
    Mutation("the seed is the slot's", 6, _seed_of_the_slot),
    Mutation("no step is ever overdue", 7, _never_overdue, STUCK),
    Mutation("heartbeats decide", 7, _heartbeats_decide, AGENTS),
    Mutation("only the prompt is computed again", 8, _prompt_only),
    Mutation("requests are blamed for whatever ends an epoch", 8, _blame_for_all, STUCK),
    Mutation("an agent obeys any coordinator", 8, _agents_not_fenced, TAKEN_OVER),
    Mutation("an agent forgets who took engines that are gone", 8, _agents_forget, TAKEN_OVER),
    Mutation("what fails looks like an answer", 9, _early_success),
    Mutation("what fails has no reason", 9, _nobody_told),
    Mutation("the queue has no bound", 10, _long_queue),
    Mutation("deadlines are never looked at", 10, _no_deadlines),
    Mutation("nothing is ever released", 11, _never_released),
    Mutation("a request is in no journal after a hand-over", 8, _in_no_journal, make=replicated),
    Mutation("a request is handed over, and kept", 8, _given_and_kept, make=replicated),
    Mutation("blame is not handed over", 8, _blame_stays, CRASHES, make=replicated),
    Mutation("a token comes twice after a hand-over", 8, _token_again, make=replicated),
    Mutation("hang-ups go to the group before", 4, _old_cancel, make=replicated),
    Mutation("nothing is handed over", 8, _never_moved, make=replicated),
    Mutation("a full group gets what another has room for", 10, _full_or_not, make=replicated),
    Mutation(
        "a group that fails at first ends the others", 8, _together_or_not_at_all, make=replicated
    ),
)
