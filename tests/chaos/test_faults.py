"""Faults of engines on live streams: a few that cover all kinds, and two at once."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.chaos import faults
from tests.chaos.client import Question, Stream
from tests.chaos.cluster import ChaosCluster
from tests.chaos.fault import Fault, Kind, Phase, Place, covering, matrix
from tests.e2e.cluster_process import wait_until

pytestmark = pytest.mark.e2e
SEED = 2
SHARED = 3.0
"""A machine on which all else runs too may be so many times slower."""


@pytest.fixture(scope="module")
def harmed() -> Iterator[ChaosCluster]:
    with ChaosCluster.run() as cluster:
        yield cluster
        print(cluster.server.output)


def test_an_answer_goes_on_after_every_kind_of_fault(harmed: ChaosCluster) -> None:
    outcomes = []
    for outcome in faults.run(harmed, covering(matrix(), SEED)):
        print(faults.row(outcome))
        outcomes.append(outcome)
    assert {outcome.fault.kind for outcome in outcomes} == {*Kind} - {Kind.CUT}
    assert all(outcome.good for outcome in outcomes), outcomes
    middle = faults.medians(outcomes)
    for kind, most in faults.MEDIAN_SECONDS.items():
        assert middle[kind] < SHARED * most


def test_a_second_fault_while_the_next_group_forms(harmed: ChaosCluster) -> None:
    asked = Question("What is a step?", 60)
    text = Stream(harmed.server.url, asked).join(60).text
    before = harmed.wait_formed()
    both = [Fault(Kind.KILL, rank, Place.IN, Phase.DECODE, 5) for rank in (0, 1)]
    harmed.arm(both[0])
    stream = Stream(harmed.server.url, asked)
    first = wait_until(lambda: harmed.fired(both[0]), 30, "the first fault")
    agent = psutil.Process(harmed.agents[1].popen.pid)

    def other() -> psutil.Process | None:
        return next((p for p in agent.children() if p.create_time() > born), None)

    born = max(process.create_time() for process in agent.children())
    wait_until(other, 30, "another engine starts").kill()
    record = stream.join(60)
    print(f"{record.pause(first.at):.1f} s")
    assert record.over and not record.error and record.text == text
    assert harmed.wait_formed() >= before + 2


def test_both_engines_killed_at_the_same_place(harmed: ChaosCluster) -> None:
    asked = Question("How do I cancel?", 60)
    text = Stream(harmed.server.url, asked).join(60).text
    both = [Fault(Kind.KILL, rank, Place.BEFORE, Phase.DECODE, 5) for rank in (0, 1)]
    for fault in both:
        harmed.arm(fault)
    stream = Stream(harmed.server.url, asked)
    record = stream.join(60)
    for fault in both:
        harmed.disarm(fault)
    assert any(harmed.fired(fault) for fault in both)
    assert record.over and not record.error and record.text == text
    assert harmed.server.wait_idle()["counters"]["orphan_tokens"] == 0
