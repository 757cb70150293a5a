from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import build
from cluster.cli.models import keep_alive_seconds, read_offers
from cluster.core.errors import BadConfiguration, ModelUnavailable


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
    return read_offers(models, lambda *_: None, parallel="auto", **{**fixed, **given})  # type: ignore[arg-type]


def test_all_models_are_looked_at() -> None:
    (offer,) = offers("demo")
    assert offer.model.demo and offer.model.context == 8192 and offer.weight_bytes > 1 << 20
    assert offer.recipe_of(0) is offer.recipe
    assert offer.recipe_of(2).kv_dir == "/kv/replica-2"
    with pytest.raises(ModelUnavailable):
        offers("demo", "./nowhere")


def test_more_groups_than_ranks() -> None:
    result = CliRunner().invoke(build("serve"), ["serve", "--replicas", "2"])
    assert result.exit_code == 1
    assert "--replicas 2: each group needs a rank of its own" in result.output
