"""Two groups of one model: what becomes of the requests of one that is lost."""

from __future__ import annotations

from collections import Counter

from tests.simulation.cluster import Cluster, replicated


def test_a_request_that_crashes_engines_crashes_three_epochs_of_all_groups() -> None:
    """At most: it goes on in the other group with its blame, and the last one has it alone."""
    ends: Counter[str] = Counter()
    moves = 0
    for seed in range(40):
        cluster = Cluster(seed, replicated, only=("kill an engine", "cut"))
        cluster.run()
        for client in cluster.clients:
            if client.wish.poison and client.generation is not None:
                crashes = cluster.checks.crashes.get(client.generation.id, [])
                hand_over = f"goes on with {client.wish.name}"
                moves += any(line.endswith(hand_over) for line in cluster.log)
                ends[client.state] += 1
                assert len(crashes) == 3 or client.state == "cancelled"
    assert ends["failed"] > 2 and set(ends) <= {"failed", "cancelled"} and moves > 2


def test_engines_of_both_groups_are_adopted() -> None:
    said = ""
    for seed in range(12):
        cluster = Cluster(seed, replicated, only=("kill the head",))
        cluster.run()
        said += "\n".join(line[11:] for line in cluster.log)
    for group in ("h2.0", "h2.1"):
        assert f"{group} adopts epoch" in said
