"""Nobody waits longer than the time bounds say, in simulated time."""

from __future__ import annotations

import pytest

from cluster.core.config import Limits, Pacing
from cluster.core.ids import RequestId
from cluster.core.request import Request
from cluster.scheduler.sequence import Sequence
from cluster.scheduler.turns import PrefillTurns
from tests.unit.scheduler.harness import Harness, Tracked
from tests.unit.scheduler.reference import Cost

COSTS = [
    pytest.param(Cost(), id="usual"),
    pytest.param(Cost(token=1e-3, attention=5e-8, iteration=0.015), id="slow"),
    pytest.param(Cost(token=5e-5, attention=2e-9, iteration=0.06), id="slow decode"),
]
LONG = 30_000
PACING = Pacing()


def decode_step(cost: Cost, rows: int) -> float:
    """The longest that one decode step may take: an even part of what is in flight, rounded up to
    an iteration."""
    return PACING.decode_in_flight / PACING.steps_in_flight + cost.decode(rows)


def long_prompt(stem: int) -> list[int]:
    return [stem + n % 777 for n in range(LONG)]


def prefill_seconds(cost: Cost) -> float:
    """Of one long prompt with nobody beside it."""
    return cost.prefill(0, LONG)


def decoding(harness: Harness, name: str = "stream") -> Tracked:
    """A stream that has got into its stride, on an engine whose speed is known."""
    harness.submit("warm", long_prompt(50_000)[:4_000], 1)
    harness.run()
    stream = harness.submit(name, [1, 2, 3], 100_000)
    harness.run(until=lambda: stream.tokens > 100)
    return stream


@pytest.mark.parametrize("cost", COSTS)
def test_a_stream_beside_a_long_prefill_waits_one_chunk_at_most(cost: Cost) -> None:
    harness = Harness(cost=cost)
    stream = decoding(harness)
    stream.times.clear()
    long = harness.submit("long", long_prompt(0), 1)
    harness.run(until=lambda: long.tokens)
    decode = decode_step(cost, 2)
    assert stream.longest_wait <= PACING.chunk * PACING.prefill_share * 1.001 + decode
    assert stream.longest_wait <= PACING.chunk + decode
    harness.end("stream")
    harness.settle()


@pytest.mark.parametrize("cost", COSTS)
def test_that_prefill_still_gets_its_share(cost: Cost) -> None:
    harness = Harness(cost=cost)
    decoding(harness)
    long = harness.submit("long", long_prompt(0), 1)
    harness.run(until=lambda: long.tokens)
    took = harness.clock.now() - long.submitted
    # Half of the time, and at most one decode step lost per chunk.
    chunks = sum(bool(step.chunks) for step in harness.steps)
    lost = chunks * decode_step(cost, 2)
    assert took <= prefill_seconds(cost) / PACING.prefill_share + lost + 1.0
    assert took >= prefill_seconds(cost) / PACING.prefill_share * 0.9
    harness.end("stream")
    harness.settle()


@pytest.mark.parametrize("cost", COSTS)
def test_a_short_prompt_behind_two_long_prefills_is_answered_soon(cost: Cost) -> None:
    harness = Harness(cost=cost)
    for stem in range(2):
        harness.submit(f"long{stem}", long_prompt(stem), 1)
    harness.run(until=lambda: harness.engine.prefilled_tokens > LONG / 2)
    short = harness.submit("short", [7] * 50, 1)
    harness.run(until=lambda: short.tokens)
    # What is in flight, and the step that has its own chunk in it.
    own = cost.prefill(0, 50)
    assert short.times[0] - short.submitted <= 2 * PACING.chunk * 1.001 + max(PACING.chunk, own)
    harness.settle()


@pytest.mark.parametrize("cost", COSTS)
def test_even_beside_streams_a_short_prompt_is_answered_soon(cost: Cost) -> None:
    harness = Harness(cost=cost)
    decoding(harness)
    for stem in range(2):
        harness.submit(f"long{stem}", long_prompt(stem), 1)
    fed = harness.engine.prefilled_tokens
    harness.run(until=lambda: harness.engine.prefilled_tokens > fed + LONG / 2)
    short = harness.submit("short", [7] * 50, 1)
    harness.run(until=lambda: short.tokens)
    decode = decode_step(cost, 4)
    # In flight, what prefill owes decode, and its own step.
    assert short.times[0] - short.submitted <= 3 * PACING.chunk + 3 * decode
    for name in ("stream", "long0", "long1"):
        harness.end(name)
    harness.settle()


def test_two_long_prefills_advance_side_by_side() -> None:
    harness = Harness()
    both = [harness.submit(f"long{stem}", long_prompt(stem), 1) for stem in range(2)]
    harness.run(until=lambda: any(tracked.tokens for tracked in both))
    assert min(tracked.sequence.prefilled for tracked in both) > LONG * 0.8
    harness.settle()


def test_streams_of_one_batch_advance_alike() -> None:
    harness = Harness(limits=Limits(sequences=8))
    streams = [harness.submit(f"s{n}", [n, 1, 2], 400, seed=n) for n in range(8)]
    harness.run(until=lambda: streams[0].tokens > 200)
    counts = [stream.tokens for stream in streams]
    assert max(counts) - min(counts) <= 10
    harness.settle()


@pytest.mark.parametrize("cost", COSTS)
def test_a_stream_beside_many_short_prompts_waits_one_chunk_at_most(cost: Cost) -> None:
    harness = Harness(cost=cost)
    stream = decoding(harness)
    stream.times.clear()
    for n in range(60):
        harness.submit(f"r{n}", [n] * 150, 3)
    harness.run(until=lambda: all(harness.tracked[f"r{n}"].released for n in range(60)))
    decode = decode_step(cost, 16)
    assert stream.longest_wait <= PACING.chunk * 1.001 + decode
    harness.end("stream")
    harness.settle()


def test_short_prompts_that_come_beside_a_stream_go_together() -> None:
    """None is planned before it could begin, and together they may take a whole chunk's time."""
    cost = Cost(token=1e-3)
    harness = Harness(cost=cost)
    harness.submit("warm", long_prompt(50_000)[:4_000], 1)
    harness.run()
    harness.submit("first", [5] * 40, 1000)
    first = harness.plan()
    harness.submit("r0", [0] * 20, 1000)
    second = harness.plan()
    assert first is not None
    assert second is not None
    assert second.decode
    assert not second.chunks  # the first prompt is in flight
    for n in range(1, 9):
        harness.submit(f"r{n}", [n] * 20, 1000)
    harness.run(until=lambda: harness.tracked["r0"].tokens)
    together = [step for step in harness.steps if step.chunks][-1]
    assert len(together.chunks) == 9
    assert PACING.chunk * PACING.prefill_share < 9 * cost.prefill(0, 20) <= PACING.chunk
    for name in ("first", *(f"r{n}" for n in range(9))):
        harness.end(name)
    harness.settle()


@pytest.mark.parametrize("cost", COSTS)
def test_after_a_cancelled_prefill_the_next_is_answered_soon(cost: Cost) -> None:
    harness = Harness(cost=cost)
    harness.submit("long", long_prompt(0), 1)
    harness.run(until=lambda: harness.engine.prefilled_tokens > LONG / 5)
    while harness.plan():
        pass
    harness.end("long")
    second = harness.submit("second", [7] * 50, 1)
    harness.run(until=lambda: second.tokens)
    assert second.times[0] - second.submitted <= 2 * PACING.chunk * 1.001 + max(
        PACING.chunk, cost.prefill(0, 50)
    )
    harness.settle()


def test_newcomers_without_end_do_not_starve_an_old_prompt() -> None:
    """Each of them is more than a step's prefill can take, so there is always a newer one."""
    harness = Harness(limits=Limits(sequences=8, queue=1000))
    harness.submit("warm", long_prompt(50_000)[:4_000], 1)
    harness.run()
    old = harness.submit("old", long_prompt(0), 1)
    harness.run(until=lambda: old.sequence.prefilled)
    for number in range(300):
        harness.submit(f"new{number}", long_prompt(900 + number)[:1_000], 1)
    harness.run(until=lambda: old.tokens)
    took = harness.clock.now() - old.submitted
    assert took <= 2 * prefill_seconds(Cost()) + 1.0
    assert sum(harness.tracked[f"new{n}"].released for n in range(300)) > 10
    harness.settle()


def test_an_old_prompt_has_at_least_every_second_turn() -> None:
    turns = PrefillTurns()
    old, *new = (Sequence(Request(RequestId(str(n)), (1, 2), 1), 0.0) for n in range(9))
    turns.add([old])
    turns.took(old, led=True)
    begun = [old]
    led_by_old = []
    for newcomer in new:
        turns.add([newcomer])
        first, *_ = turns.order()
        led_by_old.append(first in begun)
        begun.append(first)
        turns.took(first, led=True)
    assert led_by_old == [True, False] * 4
    assert len(turns) == 9
    for sequence in (old, *new):
        turns.discard(sequence)
    assert not turns
