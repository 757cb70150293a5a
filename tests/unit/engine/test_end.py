"""Iterations after every row has ended are left out, the same ones however steps arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.core.ids import Slot
from cluster.core.plan import Admit, Chunk, Park
from tests.unit.engine.driver import GREEDY, Plan, Running, texts
from tests.unit.engine.models import write_model

PROMPT = tuple(range(20))
OTHER = tuple(range(5, 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    yield running
    running.close()


def ending(*ends: int, plan: Plan | None = None) -> Plan:
    """Two rows, PROMPT and OTHER, that end at the given ids, decoded 12 and then 5 times."""
    plan = plan or Plan()
    admits = [Admit(Slot(slot), 0, GREEDY, end_ids=ends) for slot in (0, 1)]
    chunks = (Chunk(Slot(0), 0, PROMPT, True), Chunk(Slot(1), 0, OTHER, True))
    plan.add(admit=tuple(admits), chunks=chunks)
    plan.decode(0, 1, iterations=12)
    plan.decode(0, 1, iterations=5)
    plan.add(park=(Park(Slot(0), 10), Park(Slot(1), 5)))
    return plan


def whole_texts(folder: Path) -> tuple[list[int], list[int]]:
    """What the two rows say when nothing ends them."""
    running = Running(folder)
    plan = ending()
    said = texts(plan.steps, running.run(plan.steps))
    running.close()
    assert len(said[0]) == len(said[1]) == 18
    return said[0], said[1]


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_what_follows_the_last_end_is_left_out(folder: Path, running: Running, ahead: int) -> None:
    first, second = whole_texts(folder)
    ends = (first[4], second[6])
    last = max(min(map(text.index, set(ends) & set(text))) for text in (first, second))
    plan = ending(*ends)
    results = running.run(plan.steps, ahead=ahead)
    done = [len(result.decoded) // 2 for result in results]
    # The iteration that ends it samples id `last`; one more is launched before that is known.
    assert done == [0, min(12, last + 1), 0, 0]
    said = texts(plan.steps, results)
    assert said[0] == first[: last + 2] and said[1] == second[: last + 2]


def test_one_row_that_goes_on_keeps_the_batch_going(folder: Path, running: Running) -> None:
    first, second = whole_texts(folder)
    only_first = next(token for token in first[1:] if token not in second)
    plan = ending(only_first)
    results = running.run(plan.steps)
    assert [len(result.decoded) for result in results] == [0, 24, 10, 0]


def test_a_slot_used_again_does_not_end_with_its_last_owner(folder: Path, running: Running) -> None:
    first, second = whole_texts(folder)
    plan = ending(first[1], second[1])
    plan.add(release=(Slot(0), Slot(1)))
    ending(plan=plan)
    results = running.run(plan.steps, ahead=4)
    said = texts(plan.steps, results)
    assert (said[100], said[101]) == (first, second)
