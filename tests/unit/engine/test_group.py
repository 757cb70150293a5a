"""What MLX reads when a group is formed; nothing here forms one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cluster.core.cluster import LaunchSpec, ShardPlan
from cluster.core.errors import BadConfiguration
from cluster.core.ids import Epoch, Rank
from cluster.engine.group import _environment

RING = ("10.0.0.1:1000", "10.0.0.2:2000")


def spec(backend: str, rdma: tuple[tuple[str, ...], ...] = ()) -> LaunchSpec:
    plan = ShardPlan(2, Rank(1), "tensor", backend)
    return LaunchSpec(Epoch(1), "s", "demo", "d", plan, RING, rdma=rdma)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR"):
        monkeypatch.setenv(name, "")


def test_ring() -> None:
    with _environment(spec("ring")):
        file = Path(os.environ["MLX_HOSTFILE"])
        assert json.loads(file.read_text()) == [["10.0.0.1:1000"], ["10.0.0.2:2000"]]
        assert os.environ["MLX_RANK"] == "1"
    assert not file.exists()


def test_jaccl() -> None:
    with _environment(spec("jaccl", (("", "rdma_en5"), ("rdma_en3", "")))):
        file = Path(os.environ["MLX_IBV_DEVICES"])
        assert json.loads(file.read_text()) == [[None, "rdma_en5"], ["rdma_en3", None]]
        assert os.environ["MLX_JACCL_COORDINATOR"] == "10.0.0.1:1000"
    assert not file.exists()


def test_jaccl_without_devices() -> None:
    with pytest.raises(BadConfiguration, match="of 0 ranks"), _environment(spec("jaccl")):
        pass
