"""Drafts change when a text is computed, never the text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Slot
from cluster.core.plan import Fork, Park
from cluster.core.sampling import Sampling
from cluster.engine import executor
from cluster.engine.draft import Drafter
from tests.unit.engine.driver import GREEDY, Plan, Running, compare, reference, texts
from tests.unit.engine.models import CONFIGS, TRIMMABLE, write_model

WARM = Sampling(temperature=0.9, top_p=0.9, seed=11)


class Oracle(Drafter):
    """Drafts what it was told will come, with a wrong id at a random place now and then."""

    will_come: tuple[list[int], ...] = ()

    def __init__(self, ids: Sequence[int], most: int) -> None:
        super().__init__(ids, most)
        self._rng = random.Random(str(ids[:8]))
        self.seen = list(ids)

    active = True  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "active":
            super().__setattr__(name, value)

    def draft(self, most: int) -> tuple[int, ...]:
        for text in self.will_come:
            if text[: len(self.seen)] == self.seen:
                count = self._rng.randint(0, most)
                draft = text[len(self.seen) : len(self.seen) + count]
                if draft and self._rng.random() < 0.6:
                    draft[self._rng.randrange(len(draft))] = self._rng.randrange(128)
                return tuple(draft)
        return ()

    def note(self, ids: Sequence[int], drafted: int) -> None:
        self.seen.extend(ids)


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(128) for _ in range(length)] for length in lengths]


def run(folder: Path, plan: Plan) -> tuple[dict[int, list[int]], int]:
    """The text of each slot, and the largest number of ids that one iteration gave a row."""
    running = Running(folder)
    results = running.run(plan.steps)
    running.close()
    most = max((max(result.counts, default=1) for result in results), default=1)
    return texts(plan.steps, results), most


def batch(draft: int, prompts: list[list[int]], sampling: Sampling = GREEDY) -> Plan:
    """Joins, leaves, a pause, a fork and a park in the midst of drafts."""
    a, b, c = prompts
    plan = Plan()
    plan.prefill(0, a, draft=draft, sampling=sampling)
    plan.decode(0, iterations=3)
    plan.prefill(1, b, draft=draft, sampling=sampling)
    plan.decode(0, 1, iterations=5)
    plan.prefill(2, c, draft=0, sampling=sampling)
    plan.decode(0, 1, 2, iterations=4)
    plan.decode(2, iterations=2)
    plan.decode(1, 2, iterations=4)
    plan.add(park=(Park(Slot(0), len(a) + 2),))
    begin = [*a, *b[:9]]
    plan.prefill(
        3, begin, keep=len(a), fork=(Fork(Slot(0), Slot(3), len(a)),), draft=draft,
        sampling=sampling,
    )  # fmt: skip
    plan.decode(1, 2, 3, iterations=4)
    plan.decode(3, iterations=6)
    return plan


@pytest.mark.parametrize("kind", TRIMMABLE)
def test_greedy_text_is_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_greedy(write_model(tmp_path / kind, kind), monkeypatch)


def test_caches_of_two_parts_each_are_cut_only_in_a_single_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 2048}
    config = {**CONFIGS["deepseek_v3"], **sparse}
    check_greedy(write_model(tmp_path / "v32", "deepseek_v32", **config), monkeypatch)


def check_greedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder)[0]
    prompts = prompts_of(20, 33, 7)
    longer = [*prompts[0], *prompts[1][:9]]
    wanted = {i: reference(model, p, 160) for i, p in enumerate([*prompts, longer])}
    Oracle.will_come = tuple([*p, *wanted[i]] for i, p in enumerate([*prompts, longer]))
    monkeypatch.setattr(executor, "Drafter", Oracle)
    ours, most = run(folder, batch(8, prompts))
    assert most > 3, "no draft was accepted: nothing is tested"
    for slot, prompt in enumerate([*prompts, longer]):
        compare(model, prompt, ours[slot], wanted[slot][: len(ours[slot])])


def test_sampled_text_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    prompts = prompts_of(20, 33, 7)
    plain, most = run(folder, batch(0, prompts, WARM))
    assert most == 1
    longer = [*prompts[0], *prompts[1][:9]]
    Oracle.will_come = tuple([*p, *plain[i]] for i, p in enumerate([*prompts, longer]))
    monkeypatch.setattr(executor, "Drafter", Oracle)
    ours, most = run(folder, batch(8, prompts, WARM))
    assert most > 3
    for slot, text in plain.items():
        assert ours[slot][: len(text)] == text[: len(ours[slot])]


def test_nothing_comes_after_an_end_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    (prompt,) = prompts_of(20)
    wanted = reference(load_model(folder)[0], prompt, 60)
    end = wanted[9]
    Oracle.will_come = ([*prompt, *wanted],)
    monkeypatch.setattr(executor, "Drafter", Oracle)
    plan = Plan()
    plan.prefill(0, prompt, draft=8, admit={"end_ids": (end,)})
    plan.decode(0, iterations=30)
    ours, _ = run(folder, plan)
    stop = wanted.index(end) + 1
    assert ours[0] == wanted[:stop]


def test_a_text_that_repeats_itself_takes_fewer_launches(tmp_path: Path) -> None:
    """With the real drafter, to which the whole text was shown before."""
    folder = write_model(tmp_path / "llama", "llama")
    (prompt,) = prompts_of(20)
    wanted = reference(load_model(folder)[0], prompt, 200)
    plan = Plan()
    plan.prefill(0, prompt, draft=8, history=[*prompt, *wanted, *prompt])
    plan.decode(0, iterations=20)
    ours, most = run(folder, plan)
    assert ours[0] == wanted[: len(ours[0])]
    assert most == 9
    assert len(ours[0]) > 120
