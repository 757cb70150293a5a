"""What is read, and when; nothing of how fast this machine is."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from cluster.core.cluster import ShardPlan
from cluster.core.ids import Rank, Seq
from cluster.engine import bandwidth
from cluster.engine.bandwidth import Bandwidth, due
from cluster.engine.cut import Place
from cluster.engine.loader import load, open_model
from tests.unit.engine.driver import ALONE, Plan, Running, texts
from tests.unit.engine.models import CONFIGS, write_model


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on by 2 s with each look at it."""
    looks = [0.0]

    def monotonic() -> float:
        looks.append(looks[-1] + 2)
        return looks[-1]

    monkeypatch.setattr(bandwidth, "time", SimpleNamespace(monotonic=monotonic))
    return looks


class Net(nn.Module):
    """Some layers, of which not all are read."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.layers = [None, *layers]


def in_memory(module: nn.Module) -> nn.Module:
    mx.eval(module.parameters())
    return module


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_kind_of_model_has_weights_to_read(kind: str, tmp_path: Path) -> None:
    loaded = load(write_model(tmp_path / kind, kind), ALONE, None, lambda fraction: None)
    assert (Bandwidth(loaded.module).measure() or 0) > 0


@pytest.mark.parametrize("kind", ["tensor", "pipeline"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_own_part_and_asks_no_other(
    kind: str, rank: int, tmp_path: Path, counted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ShardPlan(2, Rank(rank), kind, "ring")
    folder = write_model(tmp_path / "model", "qwen2", num_hidden_layers=4)
    module, _ = open_model(folder, plan, Place(plan))
    held = sum(array.nbytes for _, array in tree_flatten(in_memory(module).parameters()))
    for name in ("all_sum", "all_gather", "send", "recv", "recv_like"):
        monkeypatch.setattr(mx.distributed, name, None)
    read = 2 * (Bandwidth(module).measure() or 0)
    vectors = 2000 * 4
    assert held - 128 * 64 * 4 - vectors < read < held - 128 * 64 * 4, (
        "all but embeddings, norms and biases"
    )


@pytest.mark.parametrize(
    ("mode", "group", "bits"),
    [("affine", 64, 4), ("affine", 32, 8), ("mxfp4", 32, 4), ("mxfp8", 32, 8)],
)
def test_quantized_layers(mode: str, group: int, bits: int, counted: list[float]) -> None:
    layer = nn.QuantizedLinear(128, 64, False, group, bits, mode)
    arrays = [layer.weight, layer.scales, *([layer.biases] if layer.biases is not None else [])]
    size = sum(array.nbytes for array in arrays)
    assert Bandwidth(in_memory(Net(layer))).measure() == size / 2
    # Half of the rows are half of everything.
    assert Bandwidth(in_memory(Net(layer)), size // 2).measure() == size / 4


def test_no_more_is_read_than_was_said_and_no_other_layers(counted: list[float]) -> None:
    layers = (nn.Embedding(100, 8), nn.RMSNorm(8), nn.Linear(8, 16), nn.Linear(8, 16))
    net = in_memory(Net(*layers))
    row = 8 * 4
    assert Bandwidth(net).measure() == 32 * row / 2
    assert Bandwidth(net, 20 * row + 5).measure() == 20 * row / 2
    assert Bandwidth(in_memory(Net(nn.Embedding(100, 8)))).measure() is None


def test_it_keeps_nothing() -> None:
    measured = Bandwidth(in_memory(Net(nn.Linear(512, 512))))
    measured.measure()
    held = mx.get_active_memory()
    for _ in range(20):
        measured.measure()
    assert mx.get_active_memory() <= held


def long_plan() -> Plan:
    """Decoding on both sides of a step before which is measured, and across its beginning."""
    plan = Plan()
    plan.prefill(0, list(range(30)))
    plan.prefill(1, list(range(7)), draft=4)
    while not due(Seq(len(plan.steps) + 3)):
        plan.add()
    for _ in range(5):
        plan.decode(0, 1, iterations=3)
    return plan


def test_it_is_measured_now_and_then_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", "llama")
    plan = long_plan()
    running = Running(folder)
    under_way = []
    measure = running.executor.bandwidth.measure

    def watched() -> float | None:
        under_way.append(running.loop._launched - running.loop._noted)
        return measure()

    monkeypatch.setattr(running.executor.bandwidth, "measure", watched)
    results = running.run(plan.steps)
    running.close()
    said = [result.seq for result in results if result.read_bytes_per_second]
    assert said == [seq for seq in range(1, len(plan.steps) + 1) if due(Seq(seq))]
    assert len(said) == 2
    assert under_way == [0, 0]
    monkeypatch.setattr(bandwidth, "EVERY", 1 << 60)
    other = Running(folder)
    expected = other.run(plan.steps)
    other.close()
    assert texts(plan.steps, results) == texts(plan.steps, expected)
    assert [result.digest for result in results] == [result.digest for result in expected]


def test_its_time_is_no_launch_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are sized by how long they took."""
    running = Running(write_model(tmp_path / "model", "llama"))
    monkeypatch.setattr(running.executor.bandwidth, "measure", lambda: time.sleep(0.5))
    plan = Plan()
    plan.prefill(0, list(range(30)))
    (result,) = running.run(plan.steps)
    running.close()
    assert result.chunk_seconds[0] < 0.4
