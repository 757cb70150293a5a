from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.coordinator import paths as module
from cluster.coordinator.paths import Paths
from cluster.core.errors import NodeUnreachable
from cluster.core.facts import Pair
from cluster.core.link import Link


def member(name: str) -> Any:
    return SimpleNamespace(
        id=name, host=f"10.0.0.{name}", ranks=1, description=SimpleNamespace(hostname=name)
    )


@pytest.fixture
async def probed(monkeypatch: pytest.MonkeyPatch) -> tuple[Paths, list[Any]]:
    async def probe_pairs(nodes: list[Any]) -> dict[tuple[int, int], list[Link]]:
        good = Link("a", "b", "ethernet", 0.0002, 125e6)
        return {
            (0, 1): [Link("", "b", "wifi", error="no route"), good],
            (1, 0): [good],
            (0, 2): [Link("", "c", "ethernet", error="timed out")],
            (2, 0): [good],
        }

    monkeypatch.setattr(module, "probe_pairs", probe_pairs)
    members = [member("1"), member("2"), member("3")]
    paths = Paths()
    await paths.probe(members)
    return paths, members


async def test_the_best_link_of_each_pair_is_shown(probed: tuple[Paths, list[Any]]) -> None:
    paths, members = probed
    assert paths.pairs(members) == (
        Pair(
            "1",
            "2",
            "ethernet",
            pytest.approx(200.0),
            pytest.approx(1.0),
            here_id="1",
            there_id="2",
        ),
        Pair("1", "3", "ethernet", error="timed out", here_id="1", there_id="3"),
        Pair(
            "2",
            "1",
            "ethernet",
            pytest.approx(200.0),
            pytest.approx(1.0),
            here_id="2",
            there_id="1",
        ),
        Pair(
            "3",
            "1",
            "ethernet",
            pytest.approx(200.0),
            pytest.approx(1.0),
            here_id="3",
            there_id="1",
        ),
    )
    assert paths.pairs(members[:1]) == ()


async def test_a_pair_that_was_not_probed_may_reach_each_other(
    probed: tuple[Paths, list[Any]],
) -> None:
    paths, (one, two, three) = probed
    assert paths.ring([one, two]).order == (0, 1)
    assert paths.ring([two, three]).order == (0, 1)  # nobody has looked
    with pytest.raises(NodeUnreachable, match="1 can't reach 3"):
        paths.ring([one, three])
    paths.rdma_failed = True
    assert paths.rdma([one, two], paths.ring([one, two])) is None
