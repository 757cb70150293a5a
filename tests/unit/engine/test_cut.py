"""What is cut at the source is bit for bit what a rank would have kept of the whole model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from cluster.core.cluster import ShardPlan
from cluster.core.errors import CannotShard, ModelUnavailable
from cluster.core.ids import Rank
from cluster.engine import cut as module
from cluster.engine.cut import Place, cut
from cluster.engine.loader import lazy_model, open_model
from cluster.model.cut import model_digest, read_cut
from cluster.model.digest import digest
from cluster.model.weights import weight_files
from tests.unit.engine.models import CONFIGS, write_model

PIPELINED = ("qwen2", "qwen3_5", "qwen3_moe", "deepseek_v3")


class Silent:
    def loading(self, what: str, fraction: float) -> None:
        assert what == "cutting weights"


def make(whole: Path, into: Path, plan: ShardPlan) -> Path:
    cut(whole, into, digest(whole), plan, Silent())  # type: ignore[arg-type]
    return into


def arrays(folder: Path, plan: ShardPlan) -> dict[str, mx.array]:
    model, _ = open_model(folder, plan, Place(plan))
    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def plan_of(kind: str, rank: int, world: int = 2) -> ShardPlan:
    return ShardPlan(world, Rank(rank), kind)


def check_equal(whole: Path, part: Path, plan: ShardPlan) -> None:
    ours, theirs = arrays(part, plan), arrays(whole, plan)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert mx.array_equal(ours[name], array), name


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_tensor_parallel(tmp_path: Path, kind: str, rank: int) -> None:
    whole, plan = write_model(tmp_path / "whole", kind), plan_of("tensor", rank)
    check_equal(whole, make(whole, tmp_path / "part", plan), plan)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", PIPELINED)
def test_pipeline(tmp_path: Path, kind: str, rank: int) -> None:
    whole, plan = write_model(tmp_path / "whole", kind), plan_of("pipeline", rank)
    try:
        part = make(whole, tmp_path / "part", plan)
    except CannotShard:
        pytest.skip(f"mlx-lm has no pipeline for {kind}")
    check_equal(whole, part, plan)


def test_unequal_stages(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", "qwen2")
    for rank in (0, 1):
        plan = replace(plan_of("pipeline", rank), layers=(1, 2))
        check_equal(whole, make(whole, tmp_path / f"part{rank}", plan), plan)
    small, large = (
        sum(f.stat().st_size for f in weight_files(tmp_path / part)) for part in ("part0", "part1")
    )
    assert small < large
    found = read_cut(tmp_path / "part0")
    assert found is not None
    assert found.fits(digest(whole), replace(plan_of("pipeline", 0), layers=(1, 2)))
    assert not found.fits(digest(whole), plan_of("pipeline", 0))
    with pytest.raises(ModelUnavailable, match=r"\[1, 2\] there, \[2, 1\] wanted"):
        model_digest(tmp_path / "part0", replace(plan_of("pipeline", 0), layers=(2, 1)))


@pytest.mark.parametrize("rank", [0, 1])
def test_quantized(tmp_path: Path, rank: int) -> None:
    whole, plan = write_model(tmp_path / "whole", "qwen3_moe"), plan_of("tensor", rank)
    model: Any = lazy_model(whole)
    nn.quantize(model, group_size=32, bits=4)
    flat: Any = tree_flatten(model.parameters())
    mx.save_safetensors(str(whole / "model.safetensors"), dict(flat))
    config = json.loads((whole / "config.json").read_text())
    config["quantization"] = {"group_size": 32, "bits": 4}
    (whole / "config.json").write_text(json.dumps(config))
    part = make(whole, tmp_path / "part", plan)
    assert any(name.endswith(".scales") for name in arrays(part, plan))
    check_equal(whole, part, plan)


def test_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 20_000)
    whole, plan = write_model(tmp_path / "whole", "llama"), plan_of("tensor", 1)
    part = make(whole, tmp_path / "part", plan)
    assert len(weight_files(part)) > 3
    check_equal(whole, part, plan)


def test_it_takes_its_share_of_the_disk(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", "llama")
    part = make(whole, tmp_path / "part", plan_of("tensor", 0))
    sizes = [sum(f.stat().st_size for f in weight_files(folder)) for folder in (part, whole)]
    assert sizes[0] < 0.65 * sizes[1]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Of rank 1 of 2."""
    return make(write_model(tmp_path / "whole", "llama"), tmp_path / "part", plan_of("tensor", 1))


def test_it_is_known_by_the_models_digest(part: Path, tmp_path: Path) -> None:
    whole = digest(tmp_path / "whole")
    assert model_digest(part, plan_of("tensor", 1)) == whole
    assert model_digest(tmp_path / "whole", plan_of("tensor", 0)) == whole
    found = read_cut(part)
    assert found is not None
    assert found.fits(whole, plan_of("tensor", 1))
    assert not found.fits("0" * 64, plan_of("tensor", 1))
    for other in (plan_of("tensor", 0), plan_of("tensor", 1, 4), plan_of("pipeline", 1)):
        assert not found.fits(whole, other)
        with pytest.raises(ModelUnavailable, match="holds the tensor part of rank 1 of 2, not"):
            model_digest(part, other)


def test_the_weights_of_another_rank(part: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "whole", tmp_path / "other", plan_of("tensor", 0))
    for file in weight_files(other):
        (part / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelUnavailable, match="not those that were cut"):
        model_digest(part, plan_of("tensor", 1))
    with pytest.raises(ModelUnavailable, match="not those that were cut"):
        arrays(part, plan_of("tensor", 1))


@pytest.mark.parametrize("how", ["missing", "more", "of another shape"])
def test_weights_that_are_not_the_ranks(part: Path, how: str) -> None:
    """Even where cut.json says that they are: no array of the skeleton is ever left."""
    (file,) = weight_files(part)
    found: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment, arg-type]
    found = {name: mx.array(array) for name, array in found.items()}
    mx.eval(found)
    name = "model.layers.1.mlp.up_proj.weight"
    if how == "missing":
        del found[name]
    elif how == "more":
        found["more"] = found[name]
    else:
        found[name] = found[name][1:]
    mx.save_safetensors(str(file), found)
    said = json.loads((part / "cut.json").read_text())
    said["own_digest"] = digest(part)
    (part / "cut.json").write_text(json.dumps(said))
    with pytest.raises(ModelUnavailable, match="is not what rank 1 needs"):
        arrays(part, plan_of("tensor", 1))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"world": 2}'])
def test_a_broken_label(part: Path, content: str) -> None:
    (part / "cut.json").write_text(content)
    with pytest.raises(ModelUnavailable, match="is broken"):
        read_cut(part)


def test_a_model_that_can_not_be_cut(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", "llama")
    with pytest.raises(CannotShard):
        make(whole, tmp_path / "part", replace(plan_of("tensor", 0), world=3))
