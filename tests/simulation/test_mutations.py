"""A simulation that can't fail shows nothing: each safeguard, switched off, is missed."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.checks import INVARIANTS, Violated
from tests.simulation.cluster import Cluster
from tests.simulation.mutations import MUTATIONS, Mutation

SEEDS = 150
"""Most are missed within a dozen."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_is_missed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.apply(monkeypatch)
    outcomes: Counter[object] = Counter()
    for seed in range(SEEDS):
        try:
            Cluster(seed, mutation.make, only=mutation.faults).run()
            outcomes["nothing"] += 1
        except Violated as error:
            if error.invariant == mutation.invariant:
                return
            outcomes[error.invariant] += 1
    pytest.fail(f"nobody misses it in {SEEDS} seeds: {outcomes}")


def test_every_invariant_has_one() -> None:
    assert {mutation.invariant for mutation in MUTATIONS} == set(INVARIANTS)
