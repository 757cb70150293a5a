from __future__ import annotations

import math
from collections import Counter

import mlx.core as mx
import pytest

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.core.sampling import Sampling
from cluster.engine.sampler import Sampler, random_key

VOCAB = 32


def logits_of(seed: int, rows: int = 1, vocab: int = VOCAB) -> mx.array:
    return mx.random.normal((rows, vocab), key=mx.random.key(seed)) * 2


def draws(sampling: Sampling, logits: mx.array, count: int) -> Counter[int]:
    """Ids sampled at `count` positions from the same logits, `[1, vocab]`."""
    sampler = Sampler(logits.shape[-1])
    sampler.admit(Slot(0), sampling, (), ())
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
        sampler.admit(slot, sampling, (), ())
    together = [sampler.sample(slots, logits, (5, 6, 7, i)).tolist() for i in range(20)]
    for i, sampling in enumerate(mixed):
        alone = Sampler(500)
        alone.admit(Slot(9), sampling, (), ())
        for j in range(20):
            position = j if i == 3 else 5 + i
            said = alone.sample((Slot(9),), logits[i : i + 1], (position,)).tolist()
            assert said == [together[j][i]]


def test_seeds_and_positions_differ() -> None:
    logits = logits_of(4, vocab=1000) * 0.1
    for other in (Sampling(seed=1), Sampling(seed=1 << 63), Sampling(seed=(1 << 64) - 1)):
        sampler = Sampler(1000)
        sampler.admit(Slot(0), Sampling(seed=0), (), ())
        sampler.admit(Slot(1), other, (), ())
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
    sampler.admit(Slot(0), Sampling(temperature=0.0, repetition_penalty=2.0), (0, 0), (2,))
    sample = sampler.sample
    assert sample((Slot(0),), mx.array([[3.0, 1.6, 3.1, 0.0]]), (1,)).tolist() == [1]
    # 1 is in the answer now as well.
    assert sample((Slot(0),), mx.array([[-1.0, -1.1, -1.2, -1.9]]), (2,)).tolist() == [3]


def test_presence_counts_once_and_frequency_each_time() -> None:
    flat = mx.array([[1.0, 0.5, 0.0, -9.0]])
    presence, frequency = Sampler(4), Sampler(4)
    presence.admit(Slot(0), Sampling(temperature=0.0, presence_penalty=0.6), (3, 0), ())
    frequency.admit(Slot(0), Sampling(temperature=0.0, frequency_penalty=0.6), (3, 0), ())
    said = [presence.sample((Slot(0),), flat, (i,)).tolist()[0] for i in range(4)]
    assert said == [0, 1, 0, 0]
    said = [frequency.sample((Slot(0),), flat, (i,)).tolist()[0] for i in range(5)]
    assert said == [0, 1, 0, 2, 1]


def test_a_replay_goes_on_with_the_counts() -> None:
    sampling = Sampling(seed=5, frequency_penalty=1.5, repetition_penalty=1.2)
    logits, history = logits_of(8), (1, 2)
    whole = Sampler(VOCAB)
    whole.admit(Slot(0), sampling, history, ())
    said = [whole.sample((Slot(0),), logits, (i,)).tolist()[0] for i in range(30)]
    again = Sampler(VOCAB)
    again.admit(Slot(3), sampling, history, tuple(said[:10]))
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
    sampler.admit(Slot(0), Sampling(temperature=0.0, logit_bias={7: 100.0}), (), ())
    assert sampler.sample((Slot(0),), logits, (0,)).tolist() == [7]
    sampler.admit(Slot(0), Sampling(temperature=0.0), (), ())
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
            sampler.admit(Slot(0), sampling, (-5, VOCAB, 1 << 40), (VOCAB,))
            (token,) = sampler.sample((Slot(0),), logits, (0,)).tolist()
            assert 0 <= token < VOCAB
