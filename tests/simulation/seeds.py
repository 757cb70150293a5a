"""Which seeds a test run tries: 2,000, or as many as TANDEM_SIMULATION_SEEDS says."""

from __future__ import annotations

import os

from tests.simulation.cluster import run

SEEDS = int(os.environ.get("TANDEM_SIMULATION_SEEDS", "2000"))
SHARD = 50


def shards(half: int) -> list[int]:
    """The first seed of every other shard: of the even ones, or the odd ones. pytest-xdist gives
    one half to each of two workers."""
    return list(range(half * SHARD, SEEDS, 2 * SHARD))


def try_shard(first: int) -> None:
    for seed in range(first, min(first + SHARD, SEEDS)):
        run(seed)
