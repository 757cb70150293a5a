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
    PROBE_EVERY,
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

FIXED = [
    pytest.param(
        Cost(token=5.3e-4, attention=6.6e-7, chunk=0.003), id="30M llama on two CPU cores"
    ),
    pytest.param(
        Cost(token=7e-4, attention=2.7e-7, chunk=0.02, position=1.9e-5), id="slow to read its cache"
    ),
    pytest.param(
        Cost(token=1e-2, attention=1e-7, chunk=0.05, position=1e-6), id="huge model, slow GPU"
    ),
    pytest.param(Cost(token=1e-5, attention=1e-10, chunk=0.005, position=1e-7), id="fast GPU"),
    pytest.param(Cost(token=4e-5, attention=1e-9, chunk=0.16, position=1e-7), id="half is fixed"),
    pytest.param(Cost(token=1e-3, attention=1e-8, chunk=0.24), id="nearly all is fixed"),
    pytest.param(Cost(token=1e-3, attention=1e-8, chunk=0.6), id="the fixed part is too much"),
]
"""Machines on which each chunk costs something, whatever its size."""
LONG = 30_000


def is_probe(number: int) -> bool:
    """Whether the chunk of this index is one of half the size."""
    return number > 0 and number % PROBE_EVERY == 0


def bound(fixed: float) -> float:
    """The longest that a chunk may take on a machine with this fixed part."""
    return max(TARGET, min(2 * fixed, 2 * TARGET), 1.5 * fixed)


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
        # Two tokens: once in a while, to tell a slow token from a slow chunk.
        assert seconds <= TARGET * 1.001 or tokens <= (2 if cost.token > TARGET else 1)
    assert sum(tokens > 1 for tokens, _ in chunks[5:]) <= len(chunks) / 30 or cost.token < TARGET
    for number, (tokens, seconds) in enumerate(chunks[:-1]):  # and no needless small ones
        if number < 5 or is_probe(number):
            continue
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
    # Now and then noise looks like a fixed cost, for which a chunk may be twice as long.
    assert all(seconds <= 2 * TARGET * 1.25 for _, seconds in chunks[8:-1])
    assert sum(seconds > TARGET * 1.4 for _, seconds in chunks[8:-1]) <= len(chunks) / 30
    late = [chunk for n, chunk in enumerate(chunks) if not is_probe(n)][8:-1]
    assert all(seconds >= TARGET * 0.4 or tokens == LARGEST_CHUNK for tokens, seconds in late)


@pytest.mark.parametrize("cost", MACHINES[1:3])
def test_one_hiccup_is_forgotten(cost: Cost) -> None:
    pace = PrefillPace()
    prefill(pace, cost, 0, 5_000)
    pace.observe(5_000, 100, 30.0)
    chunks = prefill(pace, cost, 5_100, 40_000)
    assert all(seconds <= TARGET * 1.001 for _, seconds in chunks)
    assert max(seconds for _, seconds in chunks[-3:-1]) >= TARGET / 2


@pytest.mark.parametrize("cost", MACHINES)
def test_growth_is_bounded(cost: Cost) -> None:
    chunks = prefill(PrefillPace(), cost, 0, 2_000)
    largest = 0
    for tokens, _ in chunks:
        assert tokens <= max(FIRST_CHUNK, GROWTH * largest)
        assert tokens <= LARGEST_CHUNK
        largest = max(largest, tokens)


# Where each chunk has a fixed cost


@pytest.mark.parametrize("cost", FIXED)
def test_with_fixed_costs_too_chunks_take_the_set_time_or_are_half_work(cost: Cost) -> None:
    chunks = prefill(PrefillPace(), cost, 0, LONG)
    start = 0
    for number, (tokens, seconds) in enumerate(chunks[:-1]):
        fixed = cost.fixed(start)
        grain = cost.prefill(start, tokens + GRAIN) - seconds
        if number >= 5:
            late = grain if 1.5 * fixed > bound(0) and 1.5 * fixed == bound(fixed) else 0
            assert seconds <= bound(fixed) * 1.05 + late, (start, tokens)
            if not is_probe(number):
                full = seconds + grain >= TARGET * 0.995 or tokens == LARGEST_CHUNK
                assert full, (start, tokens)
                # Its own work is half of it, or as near as the bound lets it.
                room = max(min(fixed, 2 * TARGET - fixed), fixed / 2)
                assert seconds + grain - fixed >= 0.98 * room or tokens == LARGEST_CHUNK
        start += tokens


@pytest.mark.parametrize("cost", FIXED)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_prefill_is_never_much_slower_than_with_the_best_fixed_size(
    cost: Cost, seed: int | None
) -> None:
    """The best of those whose chunks keep the same bounds."""

    def chunks_of(size: int) -> list[tuple[int, int]]:
        return [(start, min(size, LONG - start)) for start in range(0, LONG, size)]

    best = min(
        sum(cost.prefill(start, tokens) for start, tokens in chunks_of(size))
        for size in (1, 2, 4, 8, *range(GRAIN, LARGEST_CHUNK + 1, GRAIN))
        if all(cost.prefill(s, n) <= bound(cost.fixed(s)) or n == 1 for s, n in chunks_of(size))
    )
    noise = None if seed is None else random.Random(seed)
    chunks = prefill(PrefillPace(), cost, 0, LONG, noise=noise)
    assert sum(seconds for _, seconds in chunks) <= 1.5 * best


@pytest.mark.parametrize("cost", FIXED)
@pytest.mark.parametrize("seed", range(2, 4))
def test_with_fixed_costs_noise_does_not_derail_it(cost: Cost, seed: int) -> None:
    chunks = prefill(PrefillPace(), cost, 0, LONG, noise=random.Random(seed))
    start = 0
    for number, (tokens, seconds) in enumerate(chunks):
        if number >= 8:
            # Noise can make the fixed part look larger than it is, and so the chunk longer.
            most = bound(cost.fixed(start)) + cost.prefill(start, GRAIN) - cost.fixed(start)
            assert seconds <= 1.15 * 1.6 * most, (start, tokens)
        start += tokens


@pytest.mark.parametrize("cost", FIXED)
def test_with_fixed_costs_a_jump_is_learned(cost: Cost) -> None:
    pace = PrefillPace()
    for _ in range(40):
        pace.observe(0, 50, cost.prefill(0, 50))
    chunks = prefill(pace, cost, 20_000, 30_000)
    start = 20_000
    for number, (tokens, seconds) in enumerate(chunks[:-1]):
        if number >= 5:
            assert seconds <= bound(cost.fixed(start)) * 1.05 + GRAIN * cost.token * 8
            assert seconds >= 0.4 * TARGET or tokens >= LARGEST_CHUNK // 2
        start += tokens


@pytest.mark.parametrize("cost", FIXED)
@pytest.mark.parametrize("first", [1.0, 20.0])
def test_with_fixed_costs_hiccups_are_forgotten(cost: Cost, first: float) -> None:
    """The first chunk, in which kernels are compiled, and one in the middle."""
    calm = sum(seconds for _, seconds in prefill(PrefillPace(), cost, 0, 15_000))
    pace = PrefillPace()
    pace.observe(0, 64, first)
    took = sum(seconds for _, seconds in prefill(pace, cost, 64, 7_000))
    pace.observe(7_000, 128, 30.0)
    took += sum(seconds for _, seconds in prefill(pace, cost, 7_128, 15_000))
    # While the first is in the window, chunks may be small: some 32 of them.
    assert took <= 1.3 * calm + 40 * max(cost.fixed(3_000), cost.token)


def test_single_tokens_are_no_trap() -> None:
    """Only single tokens were seen, and a token looks as if it took too long by itself."""
    pace = PrefillPace()
    cost = Cost(token=1e-3, attention=1e-8, chunk=0.3)
    for start in range(40):
        pace.observe(start, 1, cost.prefill(start, 1))
    chunks = prefill(pace, cost, 40, 5_000)
    assert min(tokens for tokens, _ in chunks[8:-1]) >= 64


def test_the_model_fits_what_was_measured() -> None:
    """A llama of 30M parameters on two CPU cores: position, tokens, seconds."""
    measured = [
        *[(0, 64, 0.039), (128, 256, 0.19), (384, 256, 0.21), (896, 256, 0.30)],
        *[(1152, 512, 0.78), (1664, 1024, 2.2), (2688, 512, 1.29), (3200, 256, 0.70)],
        *[(3456, 256, 0.75), (3712, 64, 0.21), (5184, 48, 0.19), (5232, 48, 0.193)],
        *[(5280, 48, 0.196), (5328, 48, 0.193)],
    ]
    pace = PrefillPace()
    for measurement in measured:
        pace.observe(*measurement)
    for start, tokens, seconds in measured:
        assert pace.seconds(start, tokens) == pytest.approx(seconds, rel=0.1)


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
    fixed = pace.fixed(start)
    late = pace.seconds(start, tokens - GRAIN) if tokens > GRAIN else predicted
    assert tokens <= 2 or (
        predicted <= max(budget, min(2 * fixed, 2 * budget)) * (1 + 1e-6)
        or late <= 1.5 * fixed * (1 + 1e-6)
    )
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
