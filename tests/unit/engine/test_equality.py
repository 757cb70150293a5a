"""Greedy text equals plain mlx-lm's, however the plan cuts and batches it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Slot
from cluster.core.plan import Admit, Chunk, Fork, Park, StepResult
from tests.unit.engine.driver import GREEDY, Plan, Running, compare, reference, texts
from tests.unit.engine.models import CONFIGS, TRIMMABLE, write_model


class Case:
    """A model twice: in a StepLoop and for plain mlx-lm."""

    def __init__(self, folder: Path) -> None:
        self.running = Running(folder)
        self.model: Any = load_model(folder)[0]
        self.results: list[StepResult] = []

    def check(self, plan: Plan, prompts: dict[int, list[int]]) -> dict[int, list[int]]:
        self.results = results = self.running.run(plan.steps)
        ours = texts(plan.steps, results)
        for name, prompt in prompts.items():
            theirs = reference(self.model, prompt, len(ours[name]))
            compare(self.model, prompt, ours[name], theirs)
        assert len({result.digest for result in results}) == len(results)
        return ours


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(128) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture
def case(folder: Path) -> Iterator[Case]:
    case = Case(folder)
    yield case
    case.running.close()


def test_single(case: Case) -> None:
    (prompt,) = prompts_of(23)
    plan = Plan()
    plan.prefill(0, prompt)
    plan.decode(0, iterations=1)
    plan.decode(0, iterations=20)
    plan.decode(0, iterations=3)
    ours = case.check(plan, {0: prompt})
    assert len(ours[0]) == 25
    assert len(set(ours[0])) > 3, "the model says one thing only: nothing is tested"


@pytest.mark.parametrize("chunk", [1, 7, 40, 150])
def test_chunked_prefill(case: Case, chunk: int) -> None:
    (prompt,) = prompts_of(40 if chunk == 1 else 301)
    plan = Plan()
    plan.prefill(0, prompt, chunk=chunk)
    plan.decode(0, iterations=12)
    case.check(plan, {0: prompt})


def test_prompts_that_are_prefilled_together(case: Case, folder: Path) -> None:
    prompts = dict(enumerate(prompts_of(20, 31, 9, 31, 100, 40)))
    plan = Plan()
    plan.add(
        admit=tuple(Admit(Slot(slot), 0, GREEDY) for slot in prompts),
        chunks=tuple(Chunk(Slot(slot), 0, tuple(prompts[slot]), True) for slot in prompts),
    )
    plan.decode(*prompts, iterations=6)
    plan.decode(2, iterations=3)
    case.check(plan, prompts)
    seconds = case.results[0].chunk_seconds
    # The first four are one launch, in which equally long ones have equal parts of the time.
    assert (seconds[1] == seconds[3]) == (folder.name in TRIMMABLE)
    assert seconds[0] / seconds[1] == pytest.approx(20 / 31) or folder.name not in TRIMMABLE


def test_ragged_batch_with_joins_and_leaves(case: Case) -> None:
    a, b, c, d = prompts_of(5, 61, 17, 30)
    plan = Plan()
    plan.prefill(0, a)
    plan.prefill(1, b)
    plan.decode(0, 1, iterations=4)
    plan.prefill(2, c)
    plan.decode(0, 1, 2, iterations=6)
    plan.decode(2, 0, iterations=3)  # 1 pauses, and the order changes
    plan.prefill(3, d)
    plan.decode(2, 1, 0, 3, iterations=5)
    length = len(b) + 4 + 6 + 5
    plan.decode(3, 0, iterations=5, park=(Park(Slot(1), length),))
    plan.decode(0, iterations=4)  # alone again
    plan.decode(0, 2, iterations=4)
    plan.decode(3, iterations=2)
    case.check(plan, {0: a, 1: b, 2: c, 3: d})


def test_slot_used_again(case: Case) -> None:
    a, b, c = prompts_of(20, 33, 12)
    plan = Plan()
    plan.prefill(0, a)
    plan.prefill(1, b)
    plan.decode(0, 1, iterations=5)
    plan.add(park=(Park(Slot(0), 25), Park(Slot(1), 38)))
    plan.add(release=(Slot(0), Slot(1)))
    plan.prefill(0, c)
    plan.decode(0, iterations=5)
    case.check(plan, {0: a, 1: b, 100: c})
    assert case.running.executor.slots == 1


def test_continued_after_a_park_at_its_length(case: Case) -> None:
    """Every kind of cache can be forked, and gone on from, where it ends."""
    (a,) = prompts_of(37)
    plan = Plan()
    plan.prefill(0, a)
    plan.add(park=(Park(Slot(0), len(a)),))
    b = [*a, *prompts_of(9)[0]]
    c = [*a, *prompts_of(21)[0]]
    plan.prefill(1, b, keep=len(a), fork=(Fork(Slot(0), Slot(1), len(a)),))
    plan.decode(1, iterations=4)
    plan.prefill(0, c, keep=len(a))
    plan.decode(1, 0, iterations=8)
    case.check(plan, {0: a, 1: b, 100: c})


@pytest.mark.parametrize("folder", TRIMMABLE, indirect=True)
def test_forked_and_trimmed_prefix(folder: Path) -> None:
    case = Case(folder)
    (a,) = prompts_of(600)
    b = [*a[:40], *prompts_of(30)[0]]
    c = [*a[:300], *prompts_of(31)[0]]
    plan = Plan()
    plan.prefill(0, a, chunk=170)
    plan.decode(0, iterations=3)
    plan.add(park=(Park(Slot(0), 590),))
    plan.prefill(1, b, keep=40, fork=(Fork(Slot(0), Slot(1), 40),))
    plan.decode(1, iterations=5)
    plan.prefill(2, c, keep=300, fork=(Fork(Slot(0), Slot(2), 300),))
    plan.decode(1, 2, iterations=5)
    plan.prefill(0, a, keep=590)  # the source was not changed by what its forks wrote
    plan.decode(0, 1, 2, iterations=5)
    case.check(plan, {0: a, 1: b, 2: c, 100: a})
    case.running.close()
