"""One of two ranks is slow: step times don't tell which, and what each measures alone does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.coordinator.straggler import Straggler
from cluster.core.ids import Seq
from cluster.engine.bandwidth import due
from tests.e2e.cluster_process import Process, Server, wait_until
from tests.e2e.engines import connected, execute, launched
from tests.unit.engine.driver import EPOCH, Plan

THROTTLE = """
import os, signal, sys, time
while True:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
    print(flush=True)
    time.sleep(0.1)
    os.kill(int(sys.argv[1]), signal.SIGCONT)
    time.sleep(0.002)
"""
"""The process runs for less time at once than it needs for a measurement, so that each is
interrupted; and for much less than other work leaves it on a busy machine."""
MEASUREMENTS = 3


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    """A process runs for a small part of the time only, as on a hot or busy machine."""
    command = [sys.executable, "-c", THROTTLE, str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as throttle:
        assert throttle.stdout is not None  # asked for above
        throttle.stdout.readline()
        try:
            yield
        finally:
            throttle.kill()
            throttle.wait()
            os.kill(pid, signal.SIGCONT)


@pytest.mark.anyio
async def test_the_slow_rank_shows(random_model: Callable[[str], Path]) -> None:
    plan = Plan()
    plan.prefill(0, list(range(30)))
    async with (
        launched(random_model("llama_30m"), 2, EPOCH) as engines,
        connected(engines) as clients,
    ):
        await execute(clients, plan.steps)
        for slow in (0, 1):
            pid, straggler = engines[slow].process.pid, Straggler()
            for _ in range(MEASUREMENTS):
                done = len(plan.steps)
                while not due(Seq(len(plan.steps) + 1)):
                    plan.add()
                await execute(clients, plan.steps[done:])
                with throttled(pid):
                    ranks = await execute(clients, [plan.add()])
                straggler.note([results[0] for results in ranks])
            with throttled(pid):
                plan.decode(0, iterations=3)
                ranks = await execute(clients, plan.steps[-1:])
            speeds = straggler.read_bytes_per_second
            print(speeds)
            assert speeds[slow] * 2 < speeds[1 - slow]
            assert straggler.slow == {slow}
            first, second = (results[0].decode_seconds for results in ranks)
            assert 0.8 < first / second < 1.25, "who waits takes as long"


def test_everyone_is_told(demo: Server) -> None:
    demo.chat("Hello", max_tokens=5)
    (rank,) = demo.cluster()["ranks"]
    assert rank["read_bytes_per_second"] > 0
    assert not rank["slow"]
    told = re.search(
        r'^tandem_rank_read_bytes_per_second\{rank="0"\} (.+)$',
        demo.http.get("/metrics").text,
        re.MULTILINE,
    )
    assert told is not None
    assert float(told[1]) == rank["read_bytes_per_second"]
    with Process("status", "--url", demo.url, env={"COLUMNS": "200"}) as status:
        assert status.popen.wait(30) == 0
        assert f"{rank['read_bytes_per_second'] / 1e9:.3g} GB/s" in status.output

    def sampled() -> bool:
        history = demo.http.get("/history").json()["read_bytes_per_second"]
        return any(each == [round(rank["read_bytes_per_second"])] for each in history)

    wait_until(sampled, 15, "a sample has it")
