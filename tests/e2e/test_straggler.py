"""One of two machines is slow: step times don't tell which, and what each measures alone does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster_process import Process, Server, serving, wait_until

pytestmark = pytest.mark.e2e

RUN, STOP = 0.002, 0.008
"""Seconds that the slow engine may run, and may not, by turns: it is five times as slow."""


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    """A process gets a part of the time only, as on a hot or busy machine."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(STOP)
            os.kill(pid, signal.SIGCONT)
            over.wait(RUN)

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def samples(server: Server, name: str) -> dict[str, float]:
    """By rank; of steps, those that decode."""
    return {
        sample.labels["rank"]: sample.value
        for family in text_string_to_metric_families(server.http.get("/metrics").text)
        for sample in family.samples
        if sample.name == f"tandem_{name}" and sample.labels.get("kind", "decode") == "decode"
    }


@pytest.mark.parametrize("slow", [0, 1])
def test_the_slow_machine_shows(slow: int, random_model: Callable[[str], Path]) -> None:
    with serving("--local-ranks", "2", "--model", str(random_model("llama_30m"))) as server:
        ranks = server.cluster()["ranks"]
        assert [rank["read_bytes_per_second"] for rank in ranks] == [None, None]
        with throttled(ranks[slow]["pid"]):
            server.chat("Hello", max_tokens=40, ignore_eos=True)
        ranks = server.cluster()["ranks"]
        speeds = [rank["read_bytes_per_second"] for rank in ranks]
        assert speeds[slow] * 2 < speeds[1 - slow]
        assert [rank["slow"] for rank in ranks] == [rank == slow for rank in (0, 1)]
        assert samples(server, "rank_read_bytes_per_second") == {
            str(rank): speed for rank, speed in enumerate(speeds)
        }
        steps = samples(server, "step_seconds_sum")
        assert 0.8 < steps["0"] / steps["1"] < 1.25, "who waits takes as long"
        told = wait_until(lambda: [each for each in history(server) if each], 15, "a sample has it")
        assert told[0][slow] * 2 < told[0][1 - slow]
        with Process("status", "--url", server.url, env={"COLUMNS": "200"}) as status:
            assert status.popen.wait(30) == 0
            lines = [line for line in status.output.splitlines() if "GB/s" in line]
        assert ["slow" in line for line in lines] == [rank == slow for rank in (0, 1)]


def history(server: Server) -> list[list[float]]:
    found: list[list[float]] = server.http.get("/history").json()["read_bytes_per_second"]
    return [each for each in found if any(each)]
