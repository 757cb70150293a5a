"""One line that says what is waited for, and sources in the order of their links."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.coordinator.loading import loading_line
from cluster.coordinator.sources import best_first
from cluster.core.cluster import Address, Loading


def engine(rank: int, what: str, fraction: float, endpoint: str = "") -> Any:
    member = SimpleNamespace(description=SimpleNamespace(hostname=f"host{rank}"))
    return SimpleNamespace(
        rank=rank, member=member, endpoint=endpoint, loading=Loading(what, fraction)
    )


@pytest.mark.parametrize(
    ("engines", "line"),
    [
        ([engine(0, "weights", 0.5)], "rank 0 on host0: weights 50%"),
        (
            [engine(0, "weights", 1.0, "a:1"), engine(1, "fetching weights", 0.256)],
            "rank 1 on host1: fetching weights 26%, 1 of 2 ready",
        ),
        (
            [engine(0, "starting", 0.0), engine(1, "fetching weights", 0.9)],
            "rank 1 on host1: fetching weights 90%, 0 of 2 ready",
        ),
        ([engine(0, "warm-up", 1.0, "a:1")], "all engines are ready"),
    ],
)
def test_the_one_that_is_furthest_behind(engines: list[Any], line: str) -> None:
    assert loading_line(engines) == f"loading the model: {line}"


def member(name: str, kind: str) -> Any:
    ip = f"10.0.0.{len(name)}"
    address = Address("en0", ip, kind)
    node = SimpleNamespace(addresses=(address,), agent_address=name)
    return SimpleNamespace(host=ip, description=node)


def test_faster_links_come_first() -> None:
    kinds = ["wifi", "thunderbolt", "ethernet", "other", "thunderbolt"]
    members = [member("n" * i, kind) for i, kind in enumerate(kinds, start=1)]
    assert [len(name) for name in best_first(members)] == [2, 5, 3, 4, 1]
