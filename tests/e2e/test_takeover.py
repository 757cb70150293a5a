"""Machines that leave in order, and servers that are started again: nothing is loaded anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from tests.e2e.cluster_process import Process, Server, free_port, wait_until

SAY = {"temperature": 1.0, "seed": 7, "max_tokens": 400}


def pids(server: Server) -> list[int]:
    return [rank["pid"] for rank in server.cluster()["ranks"]]


def test_a_server_that_is_started_again_goes_on_with_its_engines() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Server("--local-ranks", "2"))
        first.wait_ready()
        engines = pids(first)
        said = first.chat("hello", **SAY)["choices"][0]["message"]["content"]
        os.kill(first.popen.pid, signal.SIGKILL)
        first.popen.wait()
        second = stack.enter_context(Server("--local-ranks", "2", port=first.port))
        second.wait_ready()
        assert pids(second) == engines
        assert second.chat("hello", **SAY)["choices"][0]["message"]["content"] == said
        second.stop()
        _, alive = psutil.wait_procs([p for p in map(process, engines) if p], timeout=5)
        assert not alive


def process(pid: int) -> psutil.Process | None:
    return psutil.Process(pid) if psutil.pid_exists(pid) else None


@pytest.fixture
def pair() -> Iterator[Server]:
    """A server over two workers, none of which is its child."""
    with ExitStack() as stack:
        addresses = []
        for host in ("127.0.0.2", "127.0.0.3"):
            addresses.append(f"{host}:{free_port(host)}")
            port = addresses[-1].split(":")[1]
            stack.enter_context(Process("worker", "--host", host, "--port", port))
        server = Server("--local-ranks", "0", "--nodes", ",".join(addresses))
        stack.enter_context(server)
        server.wait_ready()
        yield server


def node(server: Server, action: str, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", "node", action, name, "--url", server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_drained_machine_is_free_and_answers_go_on(pair: Server) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "min_tokens": 1500}
    alone = pair.chat("hello", **asked)["choices"][0]["message"]["content"]
    answers: list[str] = []

    def ask() -> None:
        answers.append(pair.chat("hello", **asked)["choices"][0]["message"]["content"])

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: pair.cluster()["requests"], 10, "a live request")
    here, other = pair.cluster()["members"]
    left = node(pair, "drain", other["node_id"])
    assert left.returncode == 0 and "safe to unplug" in left.stdout, left.stderr
    asking.join(60)
    assert answers == [alone]
    assert pair.cluster()["world"] == 1
    refused = node(pair, "drain", here["node_id"])
    assert refused.returncode == 1 and "nothing could be served" in refused.stderr
    assert node(pair, "drain", "nobody").returncode == 1
    assert node(pair, "use", other["node_id"]).returncode == 0
    wait_until(lambda: pair.cluster()["world"] == 2, 40, "two ranks again")
    assert pair.chat("hello", **asked)["choices"][0]["message"]["content"] == alone
