"""What rank 0 reports beside the ids, and what holds an end id back, through the whole engine."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Slot
from cluster.core.sampling import Sampling
from tests.unit.engine.driver import Plan, Running, reference, texts
from tests.unit.engine.models import write_model

WARM = Sampling(temperature=1.5, top_k=40, frequency_penalty=1.0, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def test_likelihoods_are_those_of_the_plain_model(folder: Path) -> None:
    rng = random.Random(5)
    prompts = [[rng.randrange(128) for _ in range(length)] for length in (9, 30, 17)]
    plan = Plan()
    plan.prefill(0, prompts[0], sampling=WARM, admit={"logprobs": 4})
    plan.prefill(1, prompts[1])
    plan.prefill(2, prompts[2], admit={"logprobs": 0})
    plan.decode(2, 1, 0, iterations=6)
    running = Running(folder)
    results = running.run(plan.steps)
    running.close()
    said = texts(plan.steps, results)
    told = [likelihood for result in results for likelihood in result.likelihoods]
    assert [one.slot for one in told] == [0, 2, *[2, 0] * 6]
    model, _ = load_model(folder)
    for slot, count in ((0, 4), (2, 0)):
        whole = [*prompts[slot], *said[slot]]
        rows = np.array(model(mx.array([whole]))[0, len(prompts[slot]) - 1 : -1].tolist())
        exact = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        mine = [one for one in told if one.slot == Slot(slot)]
        assert len(mine) == len(said[slot]) == 7
        for one, token, row in zip(mine, said[slot], exact, strict=True):
            assert one.logprob == pytest.approx(row[token], abs=1e-3)
            assert len(one.top) == count
            best = np.sort(row)[::-1][:count]
            assert [logprob for _, logprob in one.top] == pytest.approx(best, abs=1e-3)
            assert [row[top] for top, _ in one.top] == pytest.approx(best, abs=1e-3)


def test_no_end_id_before_its_position(folder: Path) -> None:
    prompt = list(range(20))
    model, _ = load_model(folder)
    ends = tuple(set(reference(model, prompt, 10)))
    plan = Plan()
    plan.prefill(0, prompt, admit={"end_ids": ends, "end_from": len(prompt) + 5})
    plan.decode(0, iterations=9)
    running = Running(folder)
    said = texts(plan.steps, running.run(plan.steps))[0]
    running.close()
    assert not set(said[:5]) & set(ends)
    plain = Plan()
    plain.prefill(0, prompt, admit={"end_ids": ends})
    again = Running(folder)
    (first,) = texts(plain.steps, again.run(plain.steps))[0]
    again.close()
    assert first in ends
