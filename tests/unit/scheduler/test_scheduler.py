"""What the scheduler promises its caller, one promise at a time."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from cluster.core.channel import ChannelTable, TokenChannel
from cluster.core.config import Limits, Pacing
from cluster.core.errors import InvalidRequest, QueueFull, StepRefused
from cluster.core.ids import Epoch, RequestId, Seq
from cluster.core.plan import StepResult
from cluster.core.request import Finish, Phase, Request
from cluster.scheduler.events import Released, Sampled
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.sequence import Sequence
from tests.unit.scheduler.harness import EPOCH, Harness
from tests.unit.scheduler.reference import Cost, PlanBroken, ReferenceEngine, alone

LONG = Cost(token=1e-3, attention=1e-8)
"""A prompt of 4000 tokens takes 4 s."""


def prompt(length: int, stem: int = 1) -> list[int]:
    return [(stem * 7919 + n * n) % 1000 for n in range(length)]


# Submitting


def test_a_request_needs_its_own_channel() -> None:
    harness = Harness()
    channel = TokenChannel(RequestId("other"), harness.channels)
    with pytest.raises(ValueError, match="channel of other given for mine"):
        harness.scheduler.submit(channel, Request(RequestId("mine"), (1,), 1), 0.0)
    assert harness.scheduler.idle


def test_a_full_queue_refuses_and_forgets() -> None:
    harness = Harness(limits=Limits(sequences=1, queue=2))
    for name in ("a", "b"):
        harness.submit(name, [1, 2, 3])
    with pytest.raises(QueueFull) as refused:
        harness.submit("c", [1, 2, 3])
    assert refused.value.retry_after > 0
    assert len(harness.scheduler.sequences) == 2
    harness.plan()
    harness.submit("d", [1, 2, 3])
    harness.settle()


def test_what_can_never_fit_is_refused_with_both_numbers() -> None:
    harness = Harness(limits=Limits(kv_tokens=100))
    with pytest.raises(InvalidRequest, match=r"101 cache positions.* has 100") as refused:
        harness.submit("a", [1] * 60, 41)
    assert refused.value.param == "max_tokens"
    harness.submit("b", [1] * 60, 40)
    harness.settle()


def test_first_come_first_served() -> None:
    harness = Harness(limits=Limits(sequences=1))
    for name in "abc":
        harness.submit(name, [1, 2, 3, ord(name)])
    harness.settle()
    times = [harness.tracked[name].times[0] for name in "abc"]
    assert times == sorted(times)


# Applying


def started() -> Harness:
    harness = Harness()
    harness.submit("a", [1, 2, 3], 8)
    harness.plan()
    return harness


@pytest.mark.parametrize(
    "change",
    [
        {"seq": Seq(2)},
        {"seq": Seq(0)},
        {"epoch": Epoch(2)},
        {"prefilled": ()},
        {"prefilled": (1, 2)},
        {"decoded": (1,)},
        {"decoded": (1, 2, 3)},
        {"chunk_seconds": ()},
        {"chunk_seconds": (0.1, 0.1)},
    ],
)
def test_a_result_that_is_not_of_the_awaited_step_is_refused(change: dict[str, object]) -> None:
    harness = started()
    right = harness.engine.unanswered[0].result
    wrong = StepResult(
        **({f.name: getattr(right, f.name) for f in dataclasses.fields(right)} | change)
    )
    with pytest.raises(StepRefused):
        harness.scheduler.apply(wrong, 0.0)
    harness.settle()  # and nothing was changed by it


def test_a_result_that_leaves_out_what_is_wanted_is_refused() -> None:
    """Else the plan would hold tokens that never come, and the request would hang."""
    harness = Harness(limits=Limits(sequences=1))
    tracked = harness.submit("a", [1, 2, 3], 100)
    harness.run(until=lambda: tracked.tokens > 20)
    while harness.plan():
        pass
    right = harness.engine.unanswered[0].result
    assert len(right.decoded) > 1
    for decoded in ((), right.decoded[:-1]):
        with pytest.raises(StepRefused, match="leaves out"):
            harness.scheduler.apply(dataclasses.replace(right, decoded=decoded), 0.0)
    harness.settle()


def test_iterations_after_everybody_has_ended_are_left_out() -> None:
    whole = alone(Request(RequestId("x"), (1, 2, 3), 500))
    left_out = 0
    for end in set(whole):
        harness = Harness(cost=Cost(iteration=1e-3, row=0.0))
        tracked = harness.submit("a", [1, 2, 3], 500, end_ids=[end])
        harness.settle()
        assert tuple(tracked.ids) == whole[: whole.index(end)]
        assert tracked.drained <= 2
        left_out += sum(step.iterations for step in harness.steps) - harness.engine.decoded_tokens
    assert left_out > 0


def test_a_result_is_taken_once() -> None:
    harness = started()
    result = harness.engine.unanswered[0].result
    harness.answer()
    with pytest.raises(StepRefused):
        harness.scheduler.apply(result, 0.0)


def test_a_result_without_a_step_is_refused() -> None:
    scheduler = Scheduler(EPOCH, Limits(), Pacing(), trimmable=True)
    with pytest.raises(StepRefused):
        scheduler.apply(StepResult(EPOCH, Seq(1), 0), 0.0)


# Ending


def test_the_end_of_a_queued_request_is_at_once() -> None:
    harness = Harness(limits=Limits(sequences=1))
    harness.submit("a", [1, 2, 3], 50)
    harness.submit("b", [1, 2, 3], 50)
    harness.plan()
    assert harness.scheduler.end(RequestId("b"), Finish.CANCELLED) == [Released(RequestId("b"))]
    assert RequestId("b") not in harness.scheduler.sequences


def test_ending_twice_or_what_is_unknown_is_no_error() -> None:
    harness = started()
    for _ in range(3):
        harness.end("a")
    assert harness.scheduler.end(RequestId("nobody"), Finish.CANCELLED) == []
    harness.settle()
    harness.end("a")
    assert harness.scheduler.end(RequestId("a"), Finish.CANCELLED) == []
    harness.settle()


def test_submitted_and_ended_before_any_step_leaves_no_step() -> None:
    harness = Harness()
    harness.submit("a", [1, 2, 3])
    harness.end("a")
    assert harness.plan() is None
    harness.settle()


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.CANCELLED])
def test_the_first_reason_is_kept(finish: Finish) -> None:
    harness = started()
    harness.end("a", finish)
    harness.end("a", Finish.FAILED)
    assert harness.tracked["a"].sequence.finish is finish
    harness.settle()


@pytest.mark.parametrize("answered", range(8))
def test_a_cancel_in_prefill_costs_the_steps_in_flight_and_no_more(answered: int) -> None:
    harness = Harness(cost=LONG)
    harness.submit("a", prompt(4000))
    for _ in range(answered):
        while harness.plan():
            pass
        harness.answer()
    while harness.plan():
        pass
    sent, fed = len(harness.steps), harness.engine.prefilled_tokens
    harness.end("a")
    harness.settle()
    assert harness.engine.prefilled_tokens == fed
    assert len(harness.steps) == sent + 1
    assert not harness.steps[-1].chunks


@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("answered", [1, 3, 6])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_retry_with_another_tail_prefills_only_what_was_not_computed(
    answered: int, at_once: bool, trimmable: bool
) -> None:
    harness = Harness(cost=LONG, trimmable=trimmable)
    harness.submit("a", prompt(4000))
    for _ in range(answered):
        while harness.plan():
            pass
        harness.answer()
    while harness.plan():
        pass
    harness.end("a")
    if not at_once:
        harness.run()
    computed = harness.engine.prefilled_tokens
    assert 0 < computed < 3900
    again = harness.submit("b", [*prompt(4000)[:-10], 5, 5, 5])
    harness.settle()
    assert again.sequence.cached == computed
    assert harness.engine.prefilled_tokens == 3993


def test_a_retry_of_a_finished_prompt_computes_one_token() -> None:
    harness = Harness()
    first = harness.submit("a", prompt(500), 6)
    harness.run()
    again = harness.submit("b", prompt(500), 6)
    harness.settle()
    assert harness.engine.prefilled_tokens == 501
    assert again.sequence.cached == 499
    assert again.ids == first.ids


def test_the_next_turn_prefills_only_what_is_new() -> None:
    harness = Harness()
    first = harness.submit("a", prompt(300), 20)
    harness.run()
    second = harness.submit("b", [*prompt(300), *first.ids, 1, 2, 3], 5)
    harness.settle()
    assert second.sequence.cached == 319  # the last sampled token was in no cache yet
    assert harness.engine.prefilled_tokens == 304


@pytest.mark.parametrize(("iteration", "sizes"), [(0.013, {1, 2}), (0.019, {1}), (0.005, {4})])
def test_decode_in_flight_fills_its_bound(iteration: float, sizes: set[int]) -> None:
    harness = Harness(cost=Cost(iteration=iteration, row=0.0))
    tracked = harness.submit("a", [1, 2, 3], 1000)
    harness.run(until=lambda: tracked.tokens > 50)
    begun = len(harness.steps)
    harness.run(until=lambda: tracked.tokens > 150)
    counts = [step.iterations for step in harness.steps[begun:]]
    assert set(counts) == sizes
    most = int(Pacing().decode_in_flight / iteration)
    assert all(a + b == most for a, b in pairwise(counts))


@pytest.mark.parametrize("finish", [Finish.CANCELLED, Finish.STOP])
def test_a_cancel_in_decode_costs_the_steps_in_flight_and_no_more(finish: Finish) -> None:
    harness = Harness()
    tracked = harness.submit("a", [1, 2, 3], 1000)
    harness.run(until=lambda: tracked.tokens > 50)
    while harness.plan():
        pass
    sent = len(harness.steps)
    in_flight = sum(step.iterations for step in harness.steps[-2:])
    harness.end("a", finish)
    harness.settle()
    assert len(harness.steps) == sent + 1
    assert not harness.steps[-1].decode
    assert tracked.drained == in_flight


def test_others_go_on_when_one_is_cancelled() -> None:
    harness = Harness()
    names = "abcd"
    for name in names:
        harness.submit(name, [ord(name), 2, 3], 40, seed=ord(name))
    harness.run(until=lambda: harness.tracked["c"].tokens > 10)
    harness.end("c")
    harness.settle()
    assert [harness.tracked[name].tokens for name in "abd"] == [40, 40, 40]


def test_tokens_past_an_end_id_are_drained() -> None:
    harness = Harness()
    whole = alone(Request(RequestId("x"), (1, 2, 3), 200))
    end = whole[60]
    tracked = harness.submit("a", [1, 2, 3], 200, end_ids=[end])
    harness.settle()
    assert tracked.finish is Finish.STOP
    assert tuple(tracked.ids) == whole[: whole.index(end)]
    assert tracked.tokens == whole.index(end) + 1
    assert harness.channels.drained_tokens == tracked.drained


def test_one_token_is_the_whole_answer() -> None:
    harness = Harness()
    tracked = harness.submit("a", [1, 2, 3], 1)
    harness.settle()
    assert tracked.tokens == 1
    assert not any(step.decode for step in harness.steps)


def test_an_end_id_as_the_first_token_is_an_empty_answer() -> None:
    harness = Harness()
    first = alone(Request(RequestId("x"), (1, 2, 3), 1))[0]
    tracked = harness.submit("a", [1, 2, 3], 10, end_ids=[first])
    harness.settle()
    assert (tracked.ids, tracked.tokens, tracked.finish) == ([], 1, Finish.STOP)


# Steps


def test_at_most_two_steps_are_in_flight() -> None:
    harness = Harness(cost=LONG)
    harness.submit("a", prompt(4000))
    assert harness.plan() is not None
    assert harness.plan() is not None
    assert harness.plan() is None
    assert harness.scheduler.steps_in_flight == 2
    harness.answer()
    assert harness.plan() is not None
    assert harness.plan() is None
    harness.settle()


def test_nothing_to_do_is_no_step() -> None:
    harness = Harness()
    assert harness.plan() is None
    assert harness.scheduler.last_seq == 0


def test_the_same_calls_give_the_same_plan() -> None:
    def steps() -> list[object]:
        harness = Harness(limits=Limits(sequences=2, parked=1), cost=LONG)
        for n in range(6):
            harness.submit(f"r{n}", prompt(50 * n + 1, n % 2), 7)
        harness.run(until=lambda: len(harness.steps) > 6)
        harness.end("r3")
        harness.settle()
        return list(harness.steps)

    assert steps() == steps()


def test_prefill_in_flight_is_bounded_in_time() -> None:
    harness = Harness(cost=LONG)
    harness.submit("a", prompt(20_000))
    harness.submit("b", prompt(20_000, 2))
    harness.settle()
    late = harness.steps[6:]
    chunks = [sum(LONG.prefill(c.start, len(c.tokens)) for c in step.chunks) for step in late]
    assert max(a + b for a, b in pairwise(chunks)) <= 0.5 * 1.001


def test_chunks_keep_to_what_memory_attention_may_take() -> None:
    attended = 200_000
    harness = Harness(limits=Limits(attended=attended), cost=Cost(token=1e-6, attention=0.0))
    harness.submit("long", prompt(3000), 1)
    harness.run()
    chunks = [chunk for step in harness.steps for chunk in step.chunks]
    sizes = [len(chunk.tokens) * (chunk.start + len(chunk.tokens)) for chunk in chunks]
    assert max(sizes) <= attended
    assert sorted(sizes)[len(sizes) // 2] > 0.9 * attended  # and the bound is used
    assert Limits(attended=1).chunk_at(5000) == 1


@pytest.mark.parametrize("fixed", [0.1, 0.2, 0.4])
def test_chunks_that_take_longer_go_one_at_a_time(fixed: float) -> None:
    cost = Cost(token=1e-3, attention=1e-8, chunk=fixed)
    harness = Harness(cost=cost)
    for name in "ab":
        harness.submit(name, prompt(8_000, ord(name)))
    while not harness.scheduler.idle:
        while harness.plan():
            pass
        flights = [flight.step for flight in harness.scheduler._flights]
        chunks = [chunk for step in flights for chunk in step.chunks]
        seconds = sum(cost.prefill(c.start, len(c.tokens)) for c in chunks)
        if len(harness.steps) > 8:
            assert len(chunks) <= 1 or seconds <= Pacing().prefill_in_flight * 1.01
        harness.answer()
    harness.settle()


def test_decode_and_edits_go_while_prefill_has_to_wait() -> None:
    harness = Harness(cost=Cost(token=1e-3, attention=1e-8, chunk=0.4), limits=Limits(sequences=3))
    stream = harness.submit("stream", prompt(50), 100_000)
    long = harness.submit("long", prompt(20_000, 2))
    harness.submit("leaves", prompt(20_000, 3))
    harness.run(until=lambda: stream.tokens > 50)
    while not any(flight.step.chunks for flight in harness.scheduler._flights):
        harness.plan() or harness.answer()
    while harness.scheduler.steps_in_flight > 1:
        harness.answer()
    harness.end("leaves")
    step = harness.plan()
    assert step is not None
    assert step.park
    assert step.decode
    assert not step.chunks
    harness.end("stream")
    harness.run(until=lambda: len(harness.scheduler.sequences) == 1)
    while harness.plan():
        pass
    assert harness.scheduler.steps_in_flight == 1  # nothing but prefill is left, and it waits
    harness.run(until=lambda: long.tokens)
    harness.settle()


def test_short_prompts_share_a_step() -> None:
    harness = Harness(limits=Limits(sequences=8))
    harness.submit("warm", prompt(400), 1)
    harness.run()
    for n in range(8):
        harness.submit(f"r{n}", prompt(20, n + 2), 1)
    step = harness.plan()
    assert step is not None
    assert len(step.chunks) == 8
    harness.settle()


# Time


def test_requests_expire_in_the_queue_and_by_their_deadline() -> None:
    harness = Harness(limits=Limits(sequences=1, queue_seconds=10.0))
    harness.submit("live", [1, 2], 100, deadline=20.0)
    harness.plan()
    harness.submit("queued", [1, 2])
    harness.submit("urgent", [1, 2], deadline=5.0)

    def expired(now: float) -> list[str]:
        live = harness.scheduler.sequences.items()
        return [name for name, q in live if q.finish is None and q.late(now, 10.0)]

    assert expired(4.999) == []
    assert expired(5.0) == ["urgent"]
    assert expired(9.999) == ["urgent"]
    assert expired(10.0) == ["queued", "urgent"]
    assert expired(20.0) == ["live", "queued", "urgent"]
    for name in ("live", "queued", "urgent"):
        harness.end(name, Finish.CANCELLED)
    assert expired(1e9) == []
    harness.settle()


def test_what_was_begun_and_lost_its_slot_is_not_late_in_the_queue() -> None:
    harness = Harness(limits=Limits(sequences=1))
    sequence = harness.submit("a", prompt(4000)).sequence
    harness.plan()
    assert sequence.begun is not None and not sequence.tokens
    sequence.interrupt()  # as at the end of an epoch
    assert not sequence.late(1e9, 10.0)


def test_a_step_is_overdue_past_its_deadline() -> None:
    harness = Harness(cost=LONG)
    scheduler = harness.scheduler
    assert not scheduler.overdue(1e9)
    harness.submit("a", prompt(4000))
    harness.plan()
    assert not scheduler.overdue(60.0)  # nothing is measured yet
    assert scheduler.overdue(60.1)
    harness.run(until=lambda: len(harness.steps) > 8)
    while scheduler.steps_in_flight < 2:
        harness.plan()
    harness.answer()  # the next one can begin now, however long it was in flight before
    oldest, now = scheduler.oldest, harness.clock.now()
    assert oldest is not None and oldest.sent < now
    assert 4.0 <= oldest.allowed < 60.0
    assert not scheduler.overdue(now + oldest.allowed)
    assert scheduler.overdue(now + oldest.allowed + 0.01)
    harness.settle()


# What is


def test_progress_tells_the_phases() -> None:
    harness = Harness(limits=Limits(sequences=1), cost=LONG)
    first = harness.submit("a", prompt(200), 3).sequence
    second = harness.submit("b", prompt(10, 2), 3).sequence

    def phase(sequence: Sequence) -> Phase:
        return sequence.progress.phase

    assert phase(first) is Phase.QUEUED
    harness.plan()
    assert phase(first) is Phase.PREFILL
    assert first.progress.prefilled == 0
    harness.answer()
    assert first.progress.prefilled == 64
    assert phase(second) is Phase.QUEUED
    harness.run(until=lambda: first.tokens)
    assert phase(first) is Phase.DECODE
    assert (first.progress.prefilled, first.progress.generated) == (200, 1)
    harness.run(until=lambda: first.finish)
    assert phase(first) is Phase.DRAINING
    harness.settle()


def test_the_first_event_of_a_request_may_come_before_send_returns() -> None:
    """The channel is there before the step exists, so even that is in time."""
    table = ChannelTable()
    scheduler = Scheduler(EPOCH, Limits(), Pacing(), trimmable=True)
    engine = ReferenceEngine(EPOCH)
    request = Request(RequestId("a"), (1, 2, 3), 1)
    scheduler.submit(TokenChannel(request.id, table), request, 0.0)
    step = scheduler.next_step(0.0)
    assert step is not None
    (event, *_) = scheduler.apply(engine.take(step), 0.0)
    assert isinstance(event, Sampled)
    assert table.find(event.request_id, event.count) is not None


# The reference engine itself: a check that never fails checks nothing


def test_the_engine_refuses_what_is_not_the_next_step() -> None:
    harness = started()
    (step,) = harness.steps
    for wrong in (
        step,
        dataclasses.replace(step, seq=Seq(3)),
        dataclasses.replace(step, seq=Seq(2), epoch=Epoch(2)),
        dataclasses.replace(step, seq=Seq(2)),  # admits to a slot that is live
    ):
        engine = ReferenceEngine(EPOCH)
        engine.take(step)
        with pytest.raises(PlanBroken):
            engine.take(wrong)


def test_the_answer_depends_on_every_id_and_the_seed() -> None:
    def answer(ids: tuple[int, ...], seed: int = 0) -> tuple[int, ...]:
        request = Request(RequestId("x"), ids, 20)
        sampling = dataclasses.replace(request.sampling, seed=seed)
        return alone(dataclasses.replace(request, sampling=sampling))

    base = answer((1, 2, 3))
    others = [answer((9, 2, 3)), answer((1, 9, 3)), answer((1, 2)), answer((1, 2, 3), 1)]
    assert all(other != base for other in others)
    assert answer((1, 2, 3)) == base
