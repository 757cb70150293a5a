"""Chunk sizes, iterations and the share of prefill follow what was measured."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler.pace import (
    FIRST_CHUNK,
    GRAIN,
    GROWTH,
    LARGEST_CHUNK,
    DecodePace,
    PrefillPace,
    PrefillShare,
)
from tests.unit.scheduler.reference import Cost

TARGET = 0.25
MACHINES = [
    pytest.param(Cost(token=2e-5, attention=2e-10), id="fast"),
    pytest.param(Cost(token=3e-4, attention=3e-8), id="usual"),
    pytest.param(Cost(token=3e-3, attention=1e-7), id="slow"),
    pytest.param(Cost(token=1e-4, attention=0.0), id="no attention"),
    pytest.param(Cost(token=1e-6, attention=1e-6), id="attention only"),
    pytest.param(Cost(token=0.05, attention=1e-6), id="very slow"),
    pytest.param(Cost(token=0.5, attention=1e-6), id="a token is too much"),
]


def prefill(
    pace: PrefillPace, cost: Cost, start: int, end: int, *, noise: random.Random | None = None
) -> list[tuple[int, float]]:
    """Prefill from `start` to `end` in chunks of the pace's choice: (tokens, seconds) of each."""
    chunks = []
    while start < end:
        tokens = min(pace.tokens_within(start, TARGET), end - start)
        seconds = cost.prefill(start, tokens) * (noise.uniform(0.85, 1.15) if noise else 1)
        pace.observe(start, tokens, seconds)
        chunks.append((tokens, seconds))
        start += tokens
    return chunks


@pytest.mark.parametrize("cost", MACHINES)
def test_chunks_come_to_take_the_set_time_at_any_context(cost: Cost) -> None:
    pace = PrefillPace()
    chunks = prefill(pace, cost, 0, 30_000 if cost.token < 0.01 else 2_000)
    for tokens, seconds in chunks[2:]:
        assert seconds <= TARGET * 1.001 or tokens == 1
    for tokens, seconds in chunks[5:-1]:  # and no needless small ones
        # One more grain, or one more token where chunks are small, would have been too much.
        room = cost.prefill(30_000, GRAIN if tokens >= GRAIN else 1)
        assert seconds + room >= TARGET * 0.999 or tokens == LARGEST_CHUNK


@pytest.mark.parametrize("cost", MACHINES[:3])
def test_a_jump_to_a_long_context_is_learned_within_two_chunks(cost: Cost) -> None:
    """All that was measured so far was short prompts, all alike; then a long cached prefix."""
    pace = PrefillPace()
    for _ in range(40):
        pace.observe(0, 50, cost.prefill(0, 50))
    chunks = prefill(pace, cost, 60_000, 70_000)
    assert max(tokens for tokens, _ in chunks[:1]) <= GROWTH * FIRST_CHUNK
    assert all(seconds <= TARGET * 1.001 for _, seconds in chunks[2:])


@pytest.mark.parametrize("cost", MACHINES[:5])
@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_derail_it(cost: Cost, seed: int) -> None:
    pace = PrefillPace()
    chunks = prefill(pace, cost, 0, 40_000, noise=random.Random(seed))
    late = chunks[8:-1]
    assert all(seconds <= TARGET * 1.4 for _, seconds in late)
    assert all(seconds >= TARGET * 0.4 or tokens == LARGEST_CHUNK for tokens, seconds in late)


@pytest.mark.parametrize("cost", MACHINES[1:3])
def test_one_hiccup_is_forgotten(cost: Cost) -> None:
    pace = PrefillPace()
    prefill(pace, cost, 0, 5_000)
    pace.observe(5_000, 100, 30.0)
    chunks = prefill(pace, cost, 5_100, 40_000)
    assert all(seconds <= TARGET * 1.001 for _, seconds in chunks)
    assert chunks[-2][1] >= TARGET / 2


@pytest.mark.parametrize("cost", MACHINES)
def test_growth_is_bounded(cost: Cost) -> None:
    chunks = prefill(PrefillPace(), cost, 0, 2_000)
    largest = 0
    for tokens, _ in chunks:
        assert tokens <= max(FIRST_CHUNK, GROWTH * largest)
        assert tokens <= LARGEST_CHUNK
        largest = max(largest, tokens)


def test_before_anything_is_measured_the_chunk_is_small_and_the_prediction_none() -> None:
    pace = PrefillPace()
    assert pace.tokens_within(0, TARGET) == FIRST_CHUNK
    assert pace.tokens_within(100_000, TARGET) == FIRST_CHUNK
    assert pace.seconds(0, 1000) == 0.0


def test_chunks_are_of_few_sizes() -> None:
    pace = PrefillPace()
    chunks = prefill(pace, Cost(token=1e-3, attention=1e-8), 0, 20_000)
    assert all(tokens % GRAIN == 0 for tokens, _ in chunks[:-1])


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (10, 0.0), (-1, 1.0), (10, -1.0)])
def test_what_is_no_measurement_is_left_out(tokens: int, seconds: float) -> None:
    pace = PrefillPace()
    pace.observe(0, tokens, seconds)
    assert pace.tokens_within(0, TARGET) == FIRST_CHUNK


def test_a_budget_that_is_used_up_gives_one_token() -> None:
    pace = PrefillPace()
    for start in (0, 1, 2):  # attention only, and a single token is late
        pace.observe(start, 1, start + 0.5)
    for budget in (0.0, -1e-12, -0.2, -100.0):
        assert pace.tokens_within(0, budget) == 1
        assert pace.tokens_within(500, budget) == 1


measurements = st.tuples(
    st.integers(0, 100_000), st.integers(1, 2048), st.floats(1e-6, 100, allow_subnormal=False)
)


@settings(derandomize=True, database=None, deadline=None)
@given(
    seen=st.lists(measurements, min_size=1, max_size=40),
    start=st.integers(0, 200_000),
    budget=st.floats(-1, 10, allow_subnormal=False),
)
def test_any_measurements_give_a_usable_answer(
    seen: list[tuple[int, int, float]], start: int, budget: float
) -> None:
    pace = PrefillPace()
    for measurement in seen:
        pace.observe(*measurement)
    tokens = pace.tokens_within(start, budget)
    assert isinstance(tokens, int)
    assert 1 <= tokens <= LARGEST_CHUNK
    predicted = pace.seconds(start, tokens)
    assert math.isfinite(predicted)
    assert predicted >= 0
    assert tokens == 1 or predicted <= budget * (1 + 1e-6)
    assert pace.seconds(start + 1000, tokens) >= predicted
    assert pace.seconds(start, tokens + 1) >= predicted


# Decode


def test_iterations_fill_the_time_and_no_more() -> None:
    pace = DecodePace()
    pace.observe(4, 2, 0.008)
    assert pace.seconds(4) == pytest.approx(0.004)
    assert pace.iterations_within(4, 0.0205) == 5
    assert pace.iterations_within(4, 0.0039) == 1


def test_nothing_measured_means_one_iteration() -> None:
    pace = DecodePace()
    assert pace.seconds(3) == 0.0
    assert pace.iterations_within(3, 100.0) == 1


def test_an_unmeasured_batch_is_an_upper_bound() -> None:
    cost = Cost()
    pace = DecodePace()
    for rows in (2, 8):
        pace.observe(rows, 1, cost.decode(rows))
    for rows in range(1, 30):
        assert pace.seconds(rows) >= cost.decode(rows) - 1e-12
        assert cost.decode(rows) * pace.iterations_within(rows, 0.02) <= 0.02 + 1e-12 or (
            pace.iterations_within(rows, 0.02) == 1
        )


def test_it_follows_a_context_that_grows() -> None:
    pace = DecodePace()
    for each in (0.01, *[0.02] * 20):
        pace.observe(1, 3, 3 * each)
    assert pace.seconds(1) == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize(("rows", "iterations", "seconds"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_no_decode_is_no_measurement(rows: int, iterations: int, seconds: float) -> None:
    pace = DecodePace()
    pace.observe(rows, iterations, seconds)
    assert pace.seconds(1) == 0.0


def test_no_rows_take_no_time() -> None:
    pace = DecodePace()
    pace.observe(1, 1, 0.01)
    assert pace.seconds(0) == 0.0


# Share


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(("chunk", "decode"), [(0.125, 0.02), (0.02, 0.02), (0.003, 0.05)])
def test_prefill_gets_its_share_and_no_more(share: float, chunk: float, decode: float) -> None:
    balance = PrefillShare(share)
    prefilled = decoded = 0.0
    while prefilled + decoded < 200:
        balance.decoded(decode)
        decoded += decode
        if balance.due:
            balance.prefilled(chunk)
            prefilled += chunk
    got = prefilled / (prefilled + decoded)
    assert got <= share * 1.01
    if chunk >= decode * share / (1 - share):  # else a chunk after each decode is still less
        # What decode overpays is lost: at most one decode step for each chunk.
        owed = chunk * (1 - share) / share
        assert got >= 0.99 * chunk / (chunk + owed + decode)


def test_nothing_is_owed_at_first_or_after_a_reset() -> None:
    balance = PrefillShare(0.5)
    due = [balance.due]
    balance.prefilled(1.0)
    due.append(balance.due)
    balance.decoded(0.4)
    due.append(balance.due)
    balance.reset()
    due.append(balance.due)
    assert due == [True, False, False, True]


def test_decode_does_not_save_up() -> None:
    """Hours of decode don't let prefill stall everybody afterwards."""
    balance = PrefillShare(0.5)
    balance.decoded(3600.0)
    balance.prefilled(0.1)
    assert not balance.due
    balance.decoded(0.1)
    assert balance.due
