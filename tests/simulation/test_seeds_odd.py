"""The odd half of the seeds; see seeds.py."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import shards, try_shard


@pytest.mark.parametrize("first", shards(1))
def test_invariants_hold(first: int) -> None:
    try_shard(first)
