"""A cluster of two agents, whose engines can be harmed, and a coordinator: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from tests.chaos.fault import Fault
from tests.chaos.proxy import Proxy
from tests.e2e.cluster_process import Server, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
ENGINE = Path(__file__).with_name("engine.py")
RANKS = 2
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Fired:
    """A fault has happened."""

    pid: int
    at: float
    """On the monotonic clock, which all processes of a machine share."""


class ChaosAgent:
    """A node agent with one engine, at the same address each time it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._start()
        self.proxy = Proxy(self._port)
        """What the coordinator calls."""

    def _start(self) -> None:
        command = [sys.executable, "-m", "cluster.node", "--port", str(self._port)]
        command += ["--engine", sys.executable, str(ENGINE), str(self._folder)]
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def wait_listening(self) -> None:
        """Return once it answers calls."""
        assert self.popen.stdout is not None  # asked for above
        line = self.popen.stdout.readline()
        assert b'"listening"' in line, line

    def kill(self) -> Fired:
        """SIGKILL; it is started again at once, as an init system would do it."""
        self.popen.kill()
        fired = Fired(self.popen.pid, time.monotonic())
        self._reap()
        self._start()
        return fired

    def close(self) -> None:
        """End it, with its engine."""
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
        self._reap()
        self.proxy.close()

    def _reap(self) -> None:
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class ChaosCluster:
    """Two agents and a `tandem serve` that computes on them only."""

    def __init__(self, folder: Path, agents: Sequence[ChaosAgent], server: Server) -> None:
        self.agents = agents
        self.server = server
        self._folder = folder

    @classmethod
    @contextmanager
    def run(cls, *options: str) -> Iterator[Self]:
        """Until the block is left; `options` go to `tandem serve`."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            agents = []
            for _ in range(RANKS):
                agents.append(ChaosAgent(folder))
                stack.callback(agents[-1].close)
            for agent in agents:
                agent.wait_listening()
            nodes = ",".join(agent.proxy.address for agent in agents)
            server = Server("--local-ranks", "0", "--nodes", nodes, *options)
            stack.enter_context(server)
            cluster = cls(folder, agents, server)
            cluster.wait_formed()
            yield cluster

    def wait_formed(self, seconds: float = START_SECONDS) -> int:
        """The epoch, once one with all ranks runs."""
        self.server.wait_ready(seconds)
        wait_until(lambda: self.server.cluster()["world"] == RANKS, seconds, "both ranks are there")
        epoch: int = self.server.cluster()["epoch"]
        return epoch

    def world(self, seconds: float = START_SECONDS) -> int:
        """Ranks of the epoch that runs, once one does."""
        world: int = wait_until(lambda: self.server.cluster()["world"], seconds, "an epoch runs")
        return world

    @property
    def coordinator(self) -> psutil.Process:
        return psutil.Process(self.server.popen.pid)

    def arm(self, fault: Fault) -> None:
        """Order a fault, which happens once the launch comes that it names."""
        self._fired(fault.rank).unlink(missing_ok=True)
        half = self._folder / ".order"
        half.write_text(fault.write())
        half.rename(self._order(fault.rank))

    def disarm(self, fault: Fault) -> None:
        """Withdraw the order, or end the slowness."""
        self._order(fault.rank).unlink(missing_ok=True)

    def fired(self, fault: Fault) -> Fired | None:
        """What became of the order; None until it was obeyed."""
        path = self._fired(fault.rank)
        return Fired(**json.loads(path.read_text())) if path.exists() else None

    def resume_later(self, fired: Fired, seconds: float) -> None:
        """SIGCONT to a stopped engine after a while, if it is still there."""

        def resume() -> None:
            with suppress(ProcessLookupError):
                os.kill(fired.pid, signal.SIGCONT)

        timer = threading.Timer(seconds, resume)
        timer.daemon = True
        timer.start()

    def _order(self, rank: int) -> Path:
        return self._folder / f"order-{rank}.json"

    def _fired(self, rank: int) -> Path:
        return self._folder / f"fired-{rank}.json"
