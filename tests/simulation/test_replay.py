"""A seed says all: whoever has it sees the same run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.core.config import Limits
from tests.simulation import __main__, cluster
from tests.simulation.checks import Violated
from tests.simulation.mutations import MUTATIONS

SEED = 75
"""Has crashes, replays and requests of every kind."""


def test_the_same_seed_gives_the_same_transcript() -> None:
    first = cluster.run(SEED)
    assert first.checks.epochs > 1 and first.checks.replays
    assert cluster.run(SEED).log == first.log
    assert cluster.run(SEED + 1).log != first.log


def test_in_another_process_too() -> None:
    logs = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", str(SEED), "--trace"],
            env={**os.environ, "PYTHONHASHSEED": str(salt)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in (1, 2)
    ]
    assert logs[0] == logs[1]
    expected = [*cluster.run(SEED).log, f"seed {SEED}: all invariants hold"]
    assert logs[0].splitlines() == expected


def test_a_failing_seed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MUTATIONS[0].apply(monkeypatch)
    with pytest.raises(Violated) as caught:
        cluster.run(SEED)
    assert f"python -m tests.simulation {SEED} --trace" in caught.value.__notes__[0]
    monkeypatch.setattr(sys, "argv", ["simulation", str(SEED)])
    assert __main__.main() == 1
    assert f"seed {SEED}: {caught.value}" in capsys.readouterr().out


def test_faults_of_every_kind_are_thrown() -> None:
    """And requests end in every way."""
    logs = [cluster.run(seed) for seed in range(150)]
    said = "\n".join(line for each in logs for line in each.log)
    for kind in logs[0].faults.kinds:
        assert f" {kind}: " in said
    states = {client.state for each in logs for client in each.clients}
    assert states == {"complete", "cancelled", "failed", "refused", "dropped"}
    errors = ("RequestCrashes", "DeadlinePassed", "PromptTooLong", "QueueFull", "NotReady")
    assert all(error in said for error in errors)
    for error in ("EngineCrashed", "NodeLost", "StepOverdue", "Regrouped", "DigestMismatch"):
        assert f"is over: {error}" in said
    assert "adopts epoch" in said
    moves = [each.checks.moves for each in logs]
    assert sum(moves) > 10 and " goes on with " in said
    groups = [each.plan.replicas for each in logs]
    assert groups.count(2) > len(groups) / 4 and groups.count(1) > len(groups) / 2
    assert isinstance(logs[0].plan.limits, Limits)
