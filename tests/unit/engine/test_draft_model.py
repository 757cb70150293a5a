"""A second model's drafts: what it would say by itself, and never a change of the text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.core.config import DRAFT_ROWS, DRAFT_WINDOW
from cluster.core.errors import BadConfiguration
from cluster.core.ids import Slot
from cluster.core.sampling import Sampling
from cluster.engine import acceptance
from cluster.engine.acceptance import Acceptance
from cluster.engine.agree import Agreement
from cluster.engine.draft import Drafter
from cluster.engine.draft_model import DraftModel, Wanted, load_draft
from cluster.engine.launch import Turn
from cluster.engine.speculation import draft, wanted
from tests.unit.engine.driver import GREEDY, Plan, Running, compare, reference, texts
from tests.unit.engine.models import write_model
from tests.unit.engine.test_speculation import WARM, batch, prompts_of

VOCAB = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has nothing to do with the first, and knows fewer ids."""
    return write_model(
        tmp_path_factory.mktemp("models") / "other", "llama", seed=2, vocab_size=VOCAB - 8
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """All that the draft model is asked for."""
    all_of_it: list[Wanted] = []
    honest = DraftModel.draft

    def noting(self: DraftModel, rows: Sequence[Wanted], vocab: int) -> list[tuple[int, ...]]:
        all_of_it.extend(rows)
        return honest(self, rows, vocab)

    monkeypatch.setattr(DraftModel, "draft", noting)
    return all_of_it


def run(folder: Path, plan: Plan, drafting: Path | None = None) -> tuple[dict[int, list[int]], int]:
    """The text of each slot, and how many iterations gave a row more than one id."""
    running = Running(folder, draft=drafting)
    results = running.run(plan.steps)
    assert running.executor.slots
    running.close()
    return texts(plan.steps, results), sum(n > 1 for result in results for n in result.counts)


def same_as_plain(
    folder: Path, drafting: Path, sampling: Sampling, prompts: list[list[int]]
) -> tuple[dict[int, list[int]], int]:
    """Run the batch with drafts and hold it against the same without."""
    ours, gains = run(folder, batch(8, prompts, sampling), drafting)
    # Without drafts an iteration gives one id: a longer plan, row by row.
    longer = [*prompts[0], *prompts[1][:9]]
    for slot, prompt in enumerate([*prompts, longer]):
        plan = Plan()
        plan.prefill(0, prompt, sampling=sampling)
        plan.decode(0, iterations=len(ours[slot]) - 1)
        plain, none = run(folder, plan)
        assert none == 0
        if sampling is GREEDY:
            compare(load_model(folder)[0], prompt, ours[slot], plain[0])
        else:
            assert ours[slot] == plain[0]
    return ours, gains


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_the_model_itself_as_its_draft(
    folder: Path, sampling: Sampling, asked: list[Wanted]
) -> None:
    """Rows join, pause, leave; a prefix is forked."""
    ours, gains = same_as_plain(folder, folder, sampling, prompts_of(20, 33, 7))
    assert {each.slot for each in asked} == {0, 1, 3}, "slot 2 is not to have drafts"
    if sampling is GREEDY:
        assert gains > 10
        assert len(ours[3]) > 40, "most of what is drafted is right"


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_a_draft_model_that_is_wrong(
    folder: Path, other: Path, sampling: Sampling, asked: list[Wanted]
) -> None:
    same_as_plain(folder, other, sampling, prompts_of(20, 33, 7))
    assert asked


def test_all_is_accepted_of_the_model_itself(folder: Path, asked: list[Wanted]) -> None:
    (prompt,) = prompts_of(20)
    plan = Plan()
    plan.prefill(0, prompt, draft=8)
    plan.decode(0, iterations=12)
    ours, _ = run(folder, plan, folder)
    compare(load_model(folder)[0], prompt, ours[0], reference(load_model(folder)[0], prompt, 200)[
        : len(ours[0])
    ])  # fmt: skip
    counts = [each.count for each in asked]
    assert counts[:4] == [2, 4, 8, 8]
    assert len(ours[0]) >= 1 + 3 + 5 + 9 * 9


def test_what_is_always_wrong_is_left_alone(folder: Path, other: Path, asked: list[Wanted]) -> None:
    (prompt,) = prompts_of(20)
    plan = Plan()
    plan.prefill(0, prompt, draft=8)
    plan.decode(0, iterations=60)
    _, gains = run(folder, plan, other)
    assert gains <= 2
    assert len(asked) < 12


def test_texts_that_outgrow_the_window(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Wanted]
) -> None:
    monkeypatch.setattr(acceptance, "DRAFT_WINDOW", 6)
    monkeypatch.setattr(acceptance, "END", -1.0)  # goes on, right or wrong
    same_as_plain(folder, folder, GREEDY, prompts_of(20, 33, 7))
    assert max(len(each.ids) for each in asked) <= 12
    assert sum(each.keep == 0 for each in asked) > 6


@pytest.mark.parametrize("window", [12, DRAFT_WINDOW])
def test_a_draft_is_what_the_draft_model_would_say(
    folder: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was drafted, accepted and left out before, and whichever rows come together; and
    no more caches are kept than rows can draft at once."""
    monkeypatch.setattr(acceptance, "DRAFT_WINDOW", window)
    model = load_model(folder)[0]
    draft_model = DraftModel(load_draft(folder, lambda fraction: None), Agreement(None))
    rng = random.Random(3)
    texts = {Slot(n): ids for n, ids in enumerate(prompts_of(*range(5, 5 + DRAFT_ROWS + 3)))}
    accepted = {slot: Acceptance(len(ids), 6) for slot, ids in texts.items()}
    for _ in range(16):
        rows = rng.sample(list(texts), rng.choice((1, 2, 3, DRAFT_ROWS)))
        asked = []
        for slot in rows:
            begin, keep = accepted[slot].window()
            asked.append(Wanted(slot, texts[slot][begin:], keep, rng.randint(1, 6)))
        drafts = draft_model.draft(asked, VOCAB)
        for each, ids in zip(asked, drafts, strict=True):
            compare(model, each.ids, ids, reference(model, each.ids, each.count))
            right = rng.randint(0, each.count)
            texts[each.slot] += [*ids[:right], rng.randrange(VOCAB)]
            accepted[each.slot].note(1 + right, each.count)
        drafting = draft_model._drafting
        assert drafting is not None
        assert len(drafting._slots) == len(drafting._known) <= DRAFT_ROWS
        if rng.random() < 0.2:
            slot = rng.choice(rows)
            draft_model.drop(slot)
            accepted[slot] = Acceptance(len(texts[slot]), 6)
    for slot in texts:
        draft_model.drop(slot)
        draft_model.drop(slot)
    assert len(drafting._slots) == 0
    assert drafting._batch.rows == ()


@pytest.mark.parametrize("below", [VOCAB - 40, VOCAB + 40])
def test_models_with_room_for_other_numbers_of_ids(other: Path, below: int) -> None:
    draft_model = DraftModel(load_draft(other, lambda fraction: None), Agreement(None))
    asked = Wanted(Slot(0), [3, VOCAB + 30, VOCAB - 1, 5, VOCAB + 39], 0, 12)
    (ids,) = draft_model.draft([asked], below)
    assert len(ids) == 12
    assert all(0 <= token < min(below, VOCAB - 8) for token in ids)


def test_rows_with_more_to_read_come_in_one_at_a_time() -> None:
    """And what is found in the text goes before."""
    turns = {
        Slot(n): Turn(frozenset(), drafter=Drafter(ids, 8), acceptance=Acceptance(len(ids), 8))
        for n, ids in enumerate([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2]])
    }
    for slots in ([0], [0, 1], [0, 1]):
        found = wanted(turns, 3)
        assert [each.slot for each in found] == slots, "and nothing for a text of two ids"
        for each in found:
            turn = turns[each.slot]
            assert turn.drafter is not None
            assert turn.acceptance is not None
            turn.drafter.note([9, 9], 0)
            turn.acceptance.note(2, 2)
    turns[Slot(0)].ended = True
    assert [each.slot for each in wanted(turns, 3)] == [1]
    repeating = turns[Slot(1)]
    assert repeating.drafter is not None
    repeating.drafter.note([9] * 8, 0)
    nobody = DraftModel(None, Agreement(None))  # to ask it would fail
    drafts = draft({Slot(1): repeating}, nobody, VOCAB)
    assert drafts.ids == ((9, 9, 9, 9),)
    assert not drafts.modelled


def test_nothing_is_left_of_sequences_that_have_left(folder: Path) -> None:
    a, b = prompts_of(9, 14)
    plan = Plan()
    plan.prefill(0, a, draft=4)
    plan.prefill(1, b, draft=4)
    plan.decode(0, 1, iterations=4)
    plan.add(release=(Slot(0), Slot(1)))
    running = Running(folder, draft=folder)
    running.run(plan.steps)
    running.close()
    drafting = running.executor._draft_model._drafting
    assert len(drafting._slots) == 0


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_5"])
def test_a_draft_model_whose_cache_can_not_be_cut(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="can't be cut"):
        load_draft(write_model(tmp_path / kind, kind), lambda fraction: None)


def test_a_model_whose_cache_can_not_be_cut_has_no_drafts(
    folder: Path, tmp_path: Path, asked: list[Wanted]
) -> None:
    plan = Plan()
    plan.prefill(0, prompts_of(20)[0], draft=8)
    plan.decode(0, iterations=9)
    run(write_model(tmp_path / "gpt_oss", "gpt_oss"), plan, folder)
    assert not asked
