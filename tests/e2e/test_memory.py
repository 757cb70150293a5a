"""What each rank takes with full caches, against what was planned when it was started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster_process import Server, serving
from tests.e2e.raw_client import RawClient

STREAMS = 16
KV_GB = 0.125
"""4,096 positions of the random 30M llama, on one rank."""


@pytest.fixture(params=[1, 2])
def small(request: pytest.FixtureRequest, random_model: Callable[[str], Path]) -> Iterator[Server]:
    """A server with little room for caches."""
    model, ranks = str(random_model("llama_30m")), request.param
    gb = str(KV_GB / ranks)  # half of each position is on either of two
    with serving("--model", model, "--local-ranks", str(ranks), "--kv-gb", gb) as server:
        yield server


def test_the_peak_with_full_caches_is_as_planned(small: Server) -> None:
    """One long prompt after the other fills what is kept of prompts; then many streams at once
    take its place."""
    context = small.cluster()["model"]["context"]
    for salt in ("one", "two", "three"):
        text = salt + " " + " ".join(str(n % 10) for n in range(context // 4))
        small.chat(text, max_tokens=2)
    assert small.cluster()["counters"]["parked"] >= 2  # the third took the place of one
    streams = [
        RawClient(small, f"{n} tell me more", max_tokens=150, stream=True) for n in range(STREAMS)
    ]
    try:
        for stream in streams:
            stream.read_until(b"[DONE]", 120)
    finally:
        for stream in streams:
            stream.close()
    view = small.wait_idle()
    planned = view["model"]["rank_bytes"]
    ranks = view["ranks"]
    peak = max(rank["peak_bytes"] for rank in ranks)
    print(f"{len(ranks)} ranks: peak {peak}, planned {planned}: {peak / planned:.2f}")
    assert peak <= 1.15 * planned
    # What is planned beside weights and caches is for chunks of as many cores as there are, and
    # others may keep them busy.
    full = max(rank["weight_bytes"] for rank in ranks) + KV_GB / len(ranks) * 2**30
    assert peak >= 0.85 * full
