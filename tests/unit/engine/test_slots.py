from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from cluster.core.errors import StepRefused
from cluster.core.ids import Slot
from cluster.engine.loader import LoadedModel, load
from cluster.engine.slots import SlotTable, states
from tests.unit.engine.driver import ALONE
from tests.unit.engine.models import CONFIGS, TRIMMABLE, write_model

A, B = Slot(1), Slot(2)


def loaded_model(folder: Path, kind: str) -> LoadedModel:
    return load(write_model(folder / kind, kind), ALONE, None, lambda fraction: None)


def fill(model: Any, table: SlotTable, slot: Slot, tokens: list[int]) -> list[float]:
    """Prefill; returns the logits of the last position."""
    sequence = table[slot]
    logits = model(mx.array([tokens]), cache=sequence.caches)[0, -1]
    sequence.length += len(tokens)
    mx.eval(logits, states(sequence.caches))
    values: list[float] = logits.tolist()
    return values


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_fork_and_its_source_do_not_change_each_other(kind: str, tmp_path: Path) -> None:
    loaded = loaded_model(tmp_path, kind)
    model, table = loaded.model, SlotTable(loaded)
    prefix, one, two = list(range(20)), [5, 6, 7], [8, 9, 10]
    table.create(A)
    fill(model, table, A, prefix)
    table.fork(A, B, 20)
    fork, source = fill(model, table, B, one), fill(model, table, A, two)
    for slot, tail, found in ((Slot(3), one, fork), (Slot(4), two, source)):
        table.create(slot)
        fill(model, table, slot, prefix)
        assert fill(model, table, slot, tail) == found
    assert (table[A].length, table[B].length) == (23, 23)


@pytest.mark.parametrize("kind", TRIMMABLE)
def test_trimmed_positions_are_gone(kind: str, tmp_path: Path) -> None:
    loaded = loaded_model(tmp_path, kind)
    assert loaded.trimmable
    table = SlotTable(loaded)
    table.create(A)
    fill(loaded.model, table, A, [3] * 700)
    large = sum(array.nbytes for array in states(table[A].caches))
    table.trim(A, 10)
    assert sum(array.nbytes for array in states(table[A].caches)) < large / 2
    table.create(B)
    fill(loaded.model, table, B, [3] * 10)
    found = fill(loaded.model, table, A, [4, 5])
    assert found == pytest.approx(fill(loaded.model, table, B, [4, 5]), abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_5"])
def test_what_cant_be_trimmed_is_kept_whole_or_dropped(kind: str, tmp_path: Path) -> None:
    loaded = loaded_model(tmp_path, kind)
    assert not loaded.trimmable
    table = SlotTable(loaded)
    table.create(A)
    fill(loaded.model, table, A, [3] * 5)
    table.trim(A, 5)
    with pytest.raises(StepRefused, match="can't be cut"):
        table.trim(A, 4)
    with pytest.raises(StepRefused, match="can't be cut"):
        table.fork(A, B, 4)
    assert B not in table
    table.trim(A, 0)
    assert table[A].length == 0
    fill(loaded.model, table, A, [3] * 5)


def test_refusals(tmp_path: Path) -> None:
    loaded = loaded_model(tmp_path, "llama")
    table = SlotTable(loaded)
    table.create(A)
    fill(loaded.model, table, A, [1, 2, 3])
    with pytest.raises(StepRefused, match="taken"):
        table.create(A)
    with pytest.raises(StepRefused, match="taken"):
        table.fork(A, A, 1)
    for keep in (4, -1):
        with pytest.raises(StepRefused, match="holds 3"):
            table.trim(A, keep)
        with pytest.raises(StepRefused, match="holds 3"):
            table.fork(A, B, keep)
    for edit in (table.drop, lambda slot: table.trim(slot, 0)):
        with pytest.raises(StepRefused, match="empty"):
            edit(B)
    table.drop(A)
    assert len(table) == 0


def test_loading_reports_progress_and_size(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    fractions: list[float] = []
    loaded = load(folder, ALONE, None, fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)
    assert len(fractions) == 5
    assert loaded.weight_bytes == pytest.approx(
        (folder / "model.safetensors").stat().st_size, rel=0.1
    )
