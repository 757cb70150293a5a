"""Who runs on which core."""

from __future__ import annotations

import pytest

from benchmarks import pinning
from benchmarks.contestants import other_cores, rank_cores


@pytest.mark.skipif(len(pinning.ALL_CORES) < 2 or not pinning.CAN_PIN, reason="needs two cores")
def test_the_only_rank_has_a_core_to_itself() -> None:
    """Also as contests ask for it: from a process that is pinned itself."""
    with pinning.on_cores(other_cores(1)):
        (rank,) = rank_cores(1)
        assert rank.isdisjoint(other_cores(1))


def test_ranks_have_different_cores_as_far_as_there_are() -> None:
    assert len(set(rank_cores(2))) == min(2, len(pinning.ALL_CORES))
