from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster import demo
from cluster.cli.main import build
from cluster.cli.models import keep_alive_seconds, models_in, read_offers
from cluster.core.errors import BadConfiguration, CannotShard, ModelUnavailable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300.0), ("90s", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("0", 0.0), ("1.5h", 5400.0)],
)
def test_keep_alive(text: str, seconds: float) -> None:
    assert keep_alive_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-1", "-5m"])
def test_for_ever(text: str) -> None:
    assert keep_alive_seconds(text) is None


@pytest.mark.parametrize("text", ["", "soon", "5 m", "m", "5m!", "-", "--1"])
def test_no_time(text: str) -> None:
    with pytest.raises(BadConfiguration, match="--keep-alive"):
        keep_alive_seconds(text)


def offers(*models: str, **given: Any) -> Any:
    fixed = {"draft_model": "", "kv_dir": "/kv", "disk_bytes": 1, "kv_bits": 0, "world": 1}
    given = {"tell": print, "parallel": "auto", **fixed, **given}
    return read_offers(models, lambda *_: None, **given)  # type: ignore[arg-type]


def test_all_models_are_looked_at() -> None:
    (offer,) = offers("demo")
    assert offer.model.demo and offer.model.context == 8192 and offer.weight_bytes > 1 << 20
    assert offer.recipe_of(0) is offer.recipe
    assert offer.recipe_of(2).kv_dir == "/kv/replica-2"
    with pytest.raises(ModelUnavailable):
        offers("demo", "./nowhere")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models, one that is not whole, and what is none."""
    for name in ("small", "Large"):
        (tmp_path / name).symlink_to(demo.folder())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not the whole file")
    (tmp_path / "no-weights").mkdir()
    for name in ("broken", "no-weights"):
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_a_folder_of_models(folder: Path) -> None:
    assert [Path(each).name for each in models_in(folder)] == ["Large", "broken", "small"]
    told: list[str] = []
    found = offers("demo", found=models_in(folder), tell=told.append)
    assert [each.model.id for each in found] == ["tandem-demo", "Large", "small"]
    assert [each.model.demo for each in found] == [True, False, False]
    assert found[1].recipe.model == str(folder / "Large")
    (line,) = told
    assert line.startswith("broken is left out: ") and "no whole safetensors file" in line


def test_without_a_model_the_first_of_the_folder_that_can_be_read_comes_first(
    folder: Path,
) -> None:
    (folder / "Large").rename(folder / "larger")
    found = offers(found=models_in(folder))
    assert [each.model.id for each in found] == ["larger", "small"]
    with pytest.raises(CannotShard):
        offers(found=models_in(folder), world=7, parallel="tensor")
    assert len(offers("demo", found=models_in(folder), world=1)) == 3
    with pytest.raises(ModelUnavailable, match="no model of --models-dir"):
        offers(found=[str(folder / "broken")])


def test_a_model_that_was_named_is_not_there_twice(folder: Path) -> None:
    copy = folder / "elsewhere" / "small"
    copy.parent.mkdir()
    shutil.copytree(demo.folder(), copy)
    found = offers(str(copy), found=models_in(folder))
    assert [each.model.id for each in found] == ["small", "Large"]
    assert found[0].recipe.model == str(copy)


def test_a_folder_without_models(tmp_path: Path) -> None:
    for wrong, reason in ((tmp_path, "no folder in it is a model"), (tmp_path / "x", "No such")):
        result = CliRunner().invoke(build("serve"), ["serve", "--models-dir", str(wrong)])
        assert result.exit_code == 1
        assert reason in result.output.replace("\n", " ")


def test_more_groups_than_ranks() -> None:
    result = CliRunner().invoke(build("serve"), ["serve", "--replicas", "2"])
    assert result.exit_code == 1
    assert "--replicas 2: each group needs a rank of its own" in result.output
