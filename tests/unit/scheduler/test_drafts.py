"""Iterations that give a sequence more than one token, and what is said of each of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cluster.core.config import Limits
from cluster.core.errors import StepRefused
from cluster.core.ids import RequestId, Slot
from cluster.core.plan import Likelihood, StepResult
from cluster.core.request import Finish, Request
from cluster.core.sampling import Sampling
from cluster.scheduler.rows import in_order
from cluster.scheduler.sequence import Sequence
from cluster.scheduler.slots import SlotPool
from tests.unit.scheduler.harness import Harness
from tests.unit.scheduler.reference import Cost, alone

FAST = Cost(iteration=1e-3, row=0.0)


def request(**fields: Any) -> Request:
    base = Request(RequestId("r"), (1, 2, 3), 20, end_ids=frozenset({5, 4}))
    return dataclasses.replace(base, **fields)


def in_decode(**fields: Any) -> tuple[Harness, StepResult]:
    """A stream with a decode step of several iterations next to be answered."""
    harness = Harness(cost=FAST)
    tracked = harness.submit("a", [1, 2, 3], 400, **fields)
    harness.run(until=lambda: tracked.tokens > 30)
    while harness.plan():
        pass
    return harness, harness.engine.unanswered[0].result


@pytest.mark.parametrize("draft", [0, 1, 4, 8])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 50])
def test_the_text_is_the_same_with_any_draft(draft: int, most: int) -> None:
    harness = Harness(cost=FAST)
    harness.submit("a", [1, 2, 3], most, draft=draft)
    harness.submit("b", [1, 2, 9], 2 * most, draft=1)
    harness.settle()  # checks the texts against those of lone runs
    assert [harness.tracked[name].tokens for name in "ab"] == [most, 2 * most]


def test_drafts_take_fewer_iterations() -> None:
    def iterations(draft: int) -> int:
        harness = Harness(cost=FAST)
        harness.submit("a", [1, 2, 3], 500, draft=draft)
        harness.settle()
        return sum(step.iterations for step in harness.steps)

    assert iterations(0) == 499
    assert iterations(8) < 200


def test_the_plan_is_corrected_by_what_was_accepted() -> None:
    harness, _ = in_decode(draft=4)
    sequence = harness.tracked["a"].sequence
    flying = sum(step.iterations for step in harness.steps[-2:])
    assert harness.scheduler.steps_in_flight == 2
    assert sequence.planned_tokens == len(sequence.tokens) + 5 * flying
    assert sequence.planned_length > len(sequence.known_ids)
    while harness.answer():
        pass
    assert sequence.planned_tokens == len(sequence.tokens)
    assert sequence.planned_length == len(sequence.known_ids)
    harness.end("a")
    harness.settle()


def test_one_whose_upper_bound_is_all_it_may_have_waits_for_the_result() -> None:
    harness = Harness(cost=FAST)
    tracked = harness.submit("a", [1, 2, 3], 6, draft=8)
    assert harness.plan() is not None
    assert harness.plan() is not None
    harness.answer()
    assert tracked.sequence.planned_tokens == 10
    assert harness.plan() is None
    harness.answer()
    assert tracked.tokens > 1
    assert (harness.plan() is not None) == (tracked.tokens < 6)
    harness.settle()


def test_drafts_that_do_not_fit_are_left_out_not_refused() -> None:
    harness = Harness(limits=Limits(kv_tokens=20))
    harness.submit("a", range(10), 10, draft=8)
    harness.plan()
    assert [admit.draft for admit in harness.steps[0].admit] == [0]
    harness.settle()


@pytest.mark.parametrize(
    "alone_in_step",
    [
        {"logprobs": 0},
        {"grammar": "g"},
        {"min_tokens": 1},
        {"sampling": Sampling(presence_penalty=0.5)},
    ],
)
def test_no_drafts_where_an_id_depends_on_those_before_it(alone_in_step: dict[str, Any]) -> None:
    assert Sequence(request(draft=4), 0.0).draft == 4
    assert Sequence(request(draft=4, **alone_in_step), 0.0).draft == 0


def test_an_admission_says_all_that_the_engine_must_know() -> None:
    pool = SlotPool(Limits(), trimmable=True)
    every: tuple[dict[str, Any], ...] = (
        {},
        {"draft": 3},
        {"min_tokens": 7, "logprobs": 2, "grammar": "g"},
        {"sampling": Sampling(repetition_penalty=1.5)},
    )
    for fields in every:
        sequence = Sequence(request(**fields), 0.0)
        sequence.tokens = [8, 9]
        assert pool.admit(sequence)
    plain, drafts, checked, penalized = pool.take_edits().admit
    assert (plain.history, plain.generated, plain.draft, plain.end_from) == ((), (), 0, 0)
    assert plain.end_ids == (4, 5)
    assert (drafts.history, drafts.generated, drafts.draft) == ((1, 2, 3), (8, 9), 3)
    assert (checked.history, checked.generated) == ((), (8, 9))
    assert (checked.end_from, checked.logprobs, checked.grammar) == (10, 2, "g")
    assert (penalized.history, penalized.generated) == ((1, 2, 3), (8, 9))


def test_min_tokens_puts_off_the_end() -> None:
    end = alone(Request(RequestId("x"), (1, 2, 3), 9))[0]
    harness = Harness()
    tracked = harness.submit("a", [1, 2, 3], 9, end_ids=[end], min_tokens=4)
    harness.settle()
    assert tracked.tokens > 4


@pytest.mark.parametrize("draft", [0, 4])
def test_likelihoods_are_told_with_their_ids(draft: int) -> None:
    """The harness compares each with its id; the end id has none."""
    harness = Harness(cost=FAST)
    end = alone(Request(RequestId("x"), (1, 2, 3), 60))[40]
    asked = harness.submit("a", [1, 2, 3], 60, logprobs=2, end_ids=[end])
    harness.submit("b", [4, 5, 6], 60, draft=draft)
    harness.submit("c", [7, 8, 9], 60, logprobs=0)
    harness.settle()
    assert asked.finish is Finish.STOP


@pytest.mark.parametrize("count", [0, 6, -1])
def test_counts_out_of_bounds_are_refused(count: int) -> None:
    harness, right = in_decode(draft=4)
    counts = (count, *right.counts[1:])
    wrong = dataclasses.replace(right, counts=counts, decoded=(1,) * sum(counts))
    with pytest.raises(StepRefused, match="ids, not 1 to 5"):
        harness.scheduler.apply(wrong, 0.0)
    harness.end("a")
    harness.settle()


def test_counts_that_do_not_add_up_are_refused() -> None:
    harness, right = in_decode(draft=4)
    for wrong in (
        dataclasses.replace(right, decoded=right.decoded[:-1]),
        dataclasses.replace(right, counts=right.counts[:-1]),
    ):
        with pytest.raises(StepRefused):
            harness.scheduler.apply(wrong, 0.0)
    harness.end("a")
    harness.settle()


def test_too_few_too_many_or_foreign_likelihoods_are_refused() -> None:
    harness, right = in_decode(logprobs=1)
    told = right.likelihoods
    foreign = (Likelihood(Slot(9), -1.0), *told[1:])
    for likelihoods in ((), told[:-1], (*told, told[0]), foreign):
        with pytest.raises(StepRefused, match="likelihoods"):
            harness.scheduler.apply(dataclasses.replace(right, likelihoods=likelihoods), 0.0)
    harness.end("a")
    harness.settle()


def test_likelihoods_that_nobody_asked_for_are_refused() -> None:
    harness, right = in_decode()
    told = (Likelihood(Slot(0), -1.0),)
    with pytest.raises(StepRefused, match="nobody asked for"):
        harness.scheduler.apply(dataclasses.replace(right, likelihoods=told), 0.0)
    harness.end("a")
    harness.settle()


# Rows


@pytest.mark.parametrize(
    ("before", "rows", "after"),
    [
        ("", "ab", "ab"),
        ("abcd", "abcd", "abcd"),
        ("abcd", "acd", "adc"),
        ("abcd", "abc", "abc"),
        ("abcd", "ad", "ad"),
        ("abcd", "bc", "cb"),
        ("abcd", "e", "e"),
        ("abcd", "bcde", "dbce"),
        ("dcab", "abcd", "dcab"),
        ("abcd", "", ""),
    ],
)
def test_the_last_row_takes_the_place_of_one_that_leaves(
    before: str, rows: str, after: str
) -> None:
    every = {name: Sequence(request(id=RequestId(name)), 0.0) for name in "abcde"}
    order = in_order([every[name] for name in before], [every[name] for name in rows])
    assert "".join(sequence.request.id for sequence in order) == after


def test_rows_of_steps_keep_their_places() -> None:
    harness = Harness(limits=Limits(sequences=4))
    for number, most in enumerate((40, 10, 40, 40)):
        harness.submit(str(number), [number], most)
    harness.run(until=lambda: harness.tracked["1"].finish is not None)
    harness.submit("new", [9], 10)
    harness.settle()
    orders = [step.decode for step in harness.steps if step.decode]
    assert (0, 1, 2, 3) in orders
    assert (0, 3, 2) in orders
    assert (0, 3, 2, 4) in orders
