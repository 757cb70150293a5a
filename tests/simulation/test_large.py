"""64 machines, 10,000 requests and faults."""

from __future__ import annotations

from collections import Counter

from tests.simulation.cluster import Cluster, large


def test_64_machines_and_10_000_requests() -> None:
    cluster = Cluster(1, large)
    cluster.run()
    states = Counter(client.state for client in cluster.clients)
    assert sum(states.values()) == 10_000
    assert states["complete"] > 9_000
    assert not states["failed"] and not states["refused"]
    assert cluster.checks.epochs > 2 and cluster.checks.replays > 20
    assert any(line.endswith(" on 64") for line in cluster.log)  # an epoch of that many ranks
