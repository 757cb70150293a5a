from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.core.plan import Admit, Likelihood
from cluster.core.sampling import Sampling
from cluster.engine.sampler import Sampler, random_key

VOCAB = 32


def logits_of(seed: int, rows: int = 1, vocab: int = VOCAB) -> mx.array:
    return mx.random.normal((rows, vocab), key=mx.random.key(seed)) * 2


def begin(
    sampler: Sampler,
    slot: Slot,
    sampling: Sampling,
    history: tuple[int, ...] = (),
    generated: tuple[int, ...] = (),
    **fields: Any,
) -> None:
    sampler.admit(Admit(slot, 0, sampling, history, generated, **fields))


def draws(sampling: Sampling, logits: mx.array, count: int) -> Counter[int]:
    """Ids sampled at `count` positions from the same logits, `[1, vocab]`."""
    sampler = Sampler(logits.shape[-1])
    begin(sampler, Slot(0), sampling)
    ids = [sampler.sample((Slot(0),), logits, (position,)) for position in range(count)]
    return Counter(mx.concatenate(ids).tolist())


def probabilities(logits: mx.array, temperature: float = 1.0) -> list[float]:
    result: list[float] = mx.softmax(logits[0] / temperature).tolist()
    return result


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    logits, count = logits_of(1), 4000
    found = draws(Sampling(temperature=temperature), logits, count)
    expected = probabilities(logits, temperature)
    # Chi-squared over the ids expected at least 5 times; 99.9% quantile by Wilson-Hilferty.
    cells = [(found[i], p * count) for i, p in enumerate(expected) if p * count >= 5]
    chi2 = sum((f - e) ** 2 / e for f, e in cells)
    free = len(cells) - 1
    assert chi2 < free * (1 - 2 / (9 * free) + 3.09 * math.sqrt(2 / (9 * free))) ** 3


def test_zero_temperature_is_argmax() -> None:
    logits = logits_of(2)
    assert draws(Sampling(temperature=0.0), logits, 3) == {int(mx.argmax(logits).item()): 3}


def test_a_seed_and_position_say_the_same_in_any_batch() -> None:
    logits = logits_of(3, rows=4, vocab=500)
    mixed = [
        Sampling(seed=11),
        Sampling(temperature=0.0),
        Sampling(seed=12, top_k=9, top_p=0.8),
        Sampling(seed=13, top_p=0.7, frequency_penalty=1.0, logit_bias={3: 2.0}),
    ]
    sampler = Sampler(500)
    slots = tuple(Slot(i) for i in range(4))
    for slot, sampling in zip(slots, mixed, strict=True):
        begin(sampler, slot, sampling)
    together = [sampler.sample(slots, logits, (5, 6, 7, i)).tolist() for i in range(20)]
    for i, sampling in enumerate(mixed):
        alone = Sampler(500)
        begin(alone, Slot(9), sampling)
        for j in range(20):
            position = j if i == 3 else 5 + i
            said = alone.sample((Slot(9),), logits[i : i + 1], (position,)).tolist()
            assert said == [together[j][i]]


def test_seeds_and_positions_differ() -> None:
    logits = logits_of(4, vocab=1000) * 0.1
    for other in (Sampling(seed=1), Sampling(seed=1 << 63), Sampling(seed=(1 << 64) - 1)):
        sampler = Sampler(1000)
        begin(sampler, Slot(0), Sampling(seed=0))
        begin(sampler, Slot(1), other)
        pairs = [
            sampler.sample((Slot(0), Slot(1)), mx.concatenate([logits] * 2), (i, i)).tolist()
            for i in range(20)
        ]
        assert sum(a == b for a, b in pairs) <= 2
        assert len({a for a, _ in pairs}) > 10
    assert len({random_key(seed, place) for seed in range(100) for place in range(100)}) == 10_000


@pytest.mark.parametrize("k", [1, 3, VOCAB, 10 * VOCAB])
def test_top_k(k: int) -> None:
    logits = logits_of(5)
    best = set(mx.argsort(-logits[0])[:k].tolist())
    found = set(draws(Sampling(temperature=2.0, top_k=k), logits, 600))
    assert found <= best
    if k <= 3:
        assert found == best


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("k", [0, 6])
def test_top_p(p: float, k: int) -> None:
    logits = logits_of(6)
    order: list[int] = mx.argsort(-logits[0]).tolist()
    if k:
        order = order[:k]
    weights = [probabilities(logits)[i] for i in order]
    kept, mass = set(), 0.0
    for token, weight in zip(order, weights, strict=True):
        if mass >= p * sum(weights):
            break
        kept.add(token)
        mass += weight
    found = set(draws(Sampling(top_p=p, top_k=k), logits, 1000))
    assert found <= kept
    likely = {t for t in kept if probabilities(logits)[t] > 0.01}
    assert likely <= found


def test_min_p() -> None:
    logits = logits_of(7)
    expected = probabilities(logits)
    kept = {i for i, p in enumerate(expected) if p >= 0.2 * max(expected)}
    assert set(draws(Sampling(min_p=0.2), logits, 1000)) == kept


def test_repetition_penalty_divides_positive_and_multiplies_negative() -> None:
    sampler = Sampler(4)
    begin(sampler, Slot(0), Sampling(temperature=0.0, repetition_penalty=2.0), (0, 0), (2,))
    sample = sampler.sample
    assert sample((Slot(0),), mx.array([[3.0, 1.6, 3.1, 0.0]]), (1,)).tolist() == [1]
    # 1 is in the answer now as well.
    assert sample((Slot(0),), mx.array([[-1.0, -1.1, -1.2, -1.9]]), (2,)).tolist() == [3]


def test_presence_counts_once_and_frequency_each_time() -> None:
    flat = mx.array([[1.0, 0.5, 0.0, -9.0]])
    presence, frequency = Sampler(4), Sampler(4)
    begin(presence, Slot(0), Sampling(temperature=0.0, presence_penalty=0.6), (3, 0), ())
    begin(frequency, Slot(0), Sampling(temperature=0.0, frequency_penalty=0.6), (3, 0), ())
    said = [presence.sample((Slot(0),), flat, (i,)).tolist()[0] for i in range(4)]
    assert said == [0, 1, 0, 0]
    said = [frequency.sample((Slot(0),), flat, (i,)).tolist()[0] for i in range(5)]
    assert said == [0, 1, 0, 2, 1]


def test_a_replay_goes_on_with_the_counts() -> None:
    sampling = Sampling(seed=5, frequency_penalty=1.5, repetition_penalty=1.2)
    logits, history = logits_of(8), (1, 2)
    whole = Sampler(VOCAB)
    begin(whole, Slot(0), sampling, history, ())
    said = [whole.sample((Slot(0),), logits, (i,)).tolist()[0] for i in range(30)]
    again = Sampler(VOCAB)
    begin(again, Slot(3), sampling, history, tuple(said[:10]))
    rest = [again.sample((Slot(3),), logits, (i,)).tolist()[0] for i in range(10, 30)]
    assert rest == said[10:]


def test_logit_bias() -> None:
    logits = logits_of(9)
    assert set(draws(Sampling(temperature=0.0, logit_bias={7: 100.0}), logits, 2)) == {7}
    bias = {i: -100.0 for i in range(VOCAB) if i != 4}
    assert set(draws(Sampling(logit_bias=bias), logits, 50)) == {4}


def test_a_slot_begins_anew() -> None:
    logits = logits_of(10)
    sampler = Sampler(VOCAB)
    begin(sampler, Slot(0), Sampling(temperature=0.0, logit_bias={7: 100.0}))
    assert sampler.sample((Slot(0),), logits, (0,)).tolist() == [7]
    begin(sampler, Slot(0), Sampling(temperature=0.0))
    assert sampler.sample((Slot(0),), logits, (0,)).tolist() == [int(mx.argmax(logits).item())]
    sampler.drop(Slot(0))
    sampler.drop(Slot(0))
    with pytest.raises(StepRefused, match="slot 0"):
        sampler.sample((Slot(0),), logits, (0,))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_logits_give_an_id_of_the_vocabulary(temperature: float) -> None:
    nan, inf = float("nan"), float("inf")
    sampling = Sampling(
        temperature=temperature,
        top_p=0.5,
        frequency_penalty=1.0,
        logit_bias={-1: 5.0, VOCAB: 5.0},
    )
    for value in (nan, inf, -inf):
        for logits in (mx.full((1, VOCAB), value), mx.where(logits_of(1) > 0, value, 1.0)):
            sampler = Sampler(VOCAB)
            begin(sampler, Slot(0), sampling, (-5, VOCAB, 1 << 40), (VOCAB,))
            (token,) = sampler.sample((Slot(0),), logits, (0,)).tolist()
            assert 0 <= token < VOCAB


GREEDY = Sampling(temperature=0.0)
KINDS = [
    GREEDY,
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.3, top_k=4, top_p=0.5),
    Sampling(seed=3, top_p=0.3),
    Sampling(seed=4, min_p=0.9),
    Sampling(temperature=0.0, repetition_penalty=1.5, logit_bias={0: 100.0}),
]


@pytest.mark.parametrize("sampling", KINDS)
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_allowed_comes_out(sampling: Sampling, value: float | None) -> None:
    logits = logits_of(11) if value is None else mx.full((1, VOCAB), value)
    for few in ({31}, {5, 6, 30}, set(range(1, VOCAB))):
        allowed = mx.array([[token in few for token in range(VOCAB)]])
        sampler = Sampler(VOCAB)
        begin(sampler, Slot(0), sampling, (5, 31), grammar="g", end_ids=(31,), end_from=99)
        for position in range(5):
            ids = sampler.sample((Slot(0),), logits, (position,), allowed).tolist()
            assert set(ids) <= few
    none = mx.zeros((1, VOCAB), dtype=mx.bool_)
    assert 0 <= sampler.sample((Slot(0),), logits, (0,), none).tolist()[0] < VOCAB


def test_the_limits_are_for_what_is_allowed() -> None:
    """top_p keeps the likeliest of the allowed ids, however unlikely they are among all."""
    logits = mx.array([[20.0, 2.0, 1.9, -2.0]])
    allowed = mx.array([[False, True, True, True]])
    sampler = Sampler(4)
    begin(sampler, Slot(0), Sampling(top_p=0.9, seed=3))
    said = {sampler.sample((Slot(0),), logits, (i,), allowed).tolist()[0] for i in range(60)}
    assert said == {1, 2}


@pytest.mark.parametrize("sampling", KINDS)
def test_a_mask_for_one_row_changes_no_other(sampling: Sampling) -> None:
    logits = logits_of(12, rows=2)
    allowed = mx.stack([mx.ones((VOCAB,), dtype=mx.bool_), mx.arange(VOCAB) == 7])
    alone, together = Sampler(VOCAB), Sampler(VOCAB)
    begin(alone, Slot(0), sampling)
    begin(together, Slot(0), sampling)
    begin(together, Slot(1), Sampling(seed=5), grammar="g")
    for i in range(20):
        said = alone.sample((Slot(0),), logits[:1], (i,)).tolist()
        both = together.sample((Slot(0), Slot(1)), logits, (i, i), allowed).tolist()
        assert both == [*said, 7]


@pytest.mark.parametrize("sampling", KINDS[:-1])
def test_no_end_before_its_position(sampling: Sampling) -> None:
    ends = (2, 9, 10 * VOCAB)
    logits = mx.where((mx.arange(VOCAB) == 2) | (mx.arange(VOCAB) == 9), 50.0, logits_of(13))
    sampler = Sampler(VOCAB)
    begin(sampler, Slot(0), sampling, end_ids=ends, end_from=6)
    begin(sampler, Slot(1), sampling, end_ids=ends, end_from=4)
    begin(sampler, Slot(2), sampling, end_ids=ends)
    slots = (Slot(0), Slot(1), Slot(2))
    ended = [
        [
            token in ends
            for token in sampler.sample(slots, mx.repeat(logits, 3, 0), [i] * 3).tolist()
        ]
        for i in range(8)
    ]
    assert ended == [[i >= 6, i >= 4, True] for i in range(8)]


def test_a_grammar_decides_where_an_answer_ends() -> None:
    """Were its end held back, nothing might be left that is allowed."""
    sampler = Sampler(VOCAB)
    begin(sampler, Slot(0), GREEDY, grammar="g", end_ids=(2,), end_from=6)
    begin(sampler, Slot(1), GREEDY, end_ids=(2,), end_from=6)
    allowed = mx.stack([mx.arange(VOCAB) == 2, mx.arange(VOCAB) < 3])
    logits = mx.repeat(mx.arange(VOCAB)[None].astype(mx.float32), 2, 0)
    assert sampler.sample((Slot(0), Slot(1)), logits, (1, 1), allowed).tolist() == [2, 1]


@pytest.mark.parametrize("sampling", KINDS[:-1])
def test_rows_of_one_slot_are_its_next_positions(sampling: Sampling) -> None:
    """A draft is verified with the very numbers that would have been drawn without it."""
    logits = logits_of(14, rows=4)
    sampler = Sampler(VOCAB)
    begin(sampler, Slot(0), sampling, end_ids=tuple(range(0, VOCAB, 2)), end_from=9)
    begin(sampler, Slot(1), Sampling(seed=99))
    slots = (Slot(0), Slot(0), Slot(0), Slot(1))
    together = sampler.sample(slots, logits, (7, 8, 9, 3)).tolist()
    pairs = zip(slots, (7, 8, 9, 3), strict=True)
    apart = [
        sampler.sample((slot,), logits[i : i + 1], (place,)).tolist()[0]
        for i, (slot, place) in enumerate(pairs)
    ]
    assert together == apart


def test_the_report_is_the_models_own_distribution() -> None:
    logits = logits_of(15, rows=4, vocab=500)
    sampler = Sampler(500)
    wild = Sampling(temperature=1.7, top_k=30, logit_bias={3: 50.0}, frequency_penalty=2.0)
    for slot, logprobs in enumerate((3, None, 0, 20)):
        begin(sampler, Slot(slot), wild, logprobs=logprobs)
    slots = tuple(Slot(slot) for slot in range(4))
    ids = sampler.sample(slots, logits, (1, 2, 3, 4))
    report = sampler.report(slots, logits, ids)
    assert report is not None
    mx.eval(ids, report.arrays)
    told: list[tuple[Likelihood, ...]] = []
    reader = threading.Thread(target=lambda: told.append(report.read()))
    reader.start()
    reader.join(timeout=10)
    exact = np.array(logits.tolist(), dtype=np.float64)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    (found,) = told
    assert [likelihood.slot for likelihood in found] == [0, 2, 3]
    for likelihood, count in zip(found, (3, 0, 20), strict=True):
        row = exact[likelihood.slot]
        assert likelihood.logprob == pytest.approx(row[ids.tolist()[likelihood.slot]], abs=1e-5)
        best = np.argsort(-row)[:count]
        assert [token for token, _ in likelihood.top] == best.tolist()
        assert [value for _, value in likelihood.top] == pytest.approx(row[best], abs=1e-5)


def test_nobody_asks_and_nothing_is_reported() -> None:
    sampler, logits = Sampler(VOCAB), logits_of(16)
    begin(sampler, Slot(0), GREEDY)
    ids = sampler.sample((Slot(0),), logits, (0,))
    assert sampler.report((Slot(0),), logits, ids) is None


def test_a_small_vocabulary_is_reported_whole() -> None:
    sampler, logits = Sampler(4), mx.array([[1.0, 4.0, 2.0, 3.0]], dtype=mx.bfloat16)
    begin(sampler, Slot(0), GREEDY, logprobs=20)
    report = sampler.report((Slot(0),), logits, mx.array([1], dtype=mx.int32))
    assert report is not None
    (likelihood,) = report.read()
    assert [token for token, _ in likelihood.top] == [1, 3, 2, 0]
    assert likelihood.top[0] == (1, likelihood.logprob)
    assert sum(math.exp(value) for _, value in likelihood.top) == pytest.approx(1, abs=1e-5)
