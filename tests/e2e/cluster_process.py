"""A real `tandem serve` (and workers) as child processes, for the end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

START_SECONDS = 120.0


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition()`; AssertionError with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.02)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listened on a moment ago, and that no socket is given unasked: below
    the range from which Linux takes those of agents, engines and clients."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((host, port))
            return port


class Process:
    """A `tandem ...` process with its output in a file. Leaving it as a context manager stops
    it, with all it has started."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        descriptor, name = tempfile.mkstemp(suffix=".log")
        self._log = Path(name)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        os.close(descriptor)
        self._last_output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """All it has written so far."""
        if self._log.exists():
            self._last_output = self._log.read_text()
        return self._last_output

    def family(self) -> list[psutil.Process]:
        """It and everything it started that still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.popen.pid)
            return [root, *root.children(recursive=True)]
        return []

    def engines(self) -> list[psutil.Process]:
        """Its engine processes."""
        return [p for p in self.family() if _runs(p, "cluster.engine")]

    def stop(self, seconds: float = 10.0) -> float:
        """SIGTERM, and how long it took to be gone with all it had started; twice is no harm."""
        family = self.family()
        begin = time.monotonic()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        _gone, alive = psutil.wait_procs(family, timeout=max(0.1, seconds / 2))
        took = time.monotonic() - begin
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        output = self.output
        self._log.unlink(missing_ok=True)
        assert not alive, f"still there after SIGTERM: {alive}\n{output}"
        return took


class Server(Process):
    """A `tandem serve`, on a free port unless told otherwise."""

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        super().__init__("serve", "--port", str(self.port), *arguments, env=env)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def stop(self, seconds: float = 10.0) -> float:
        self.http.close()
        return super().stop(seconds)

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Return once /health says that it serves."""

        def ready() -> bool:
            assert self.popen.poll() is None, f"exited:\n{self.output}"
            try:
                return self.http.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready, seconds, f"ready; so far:\n{self.output}")

    def cluster(self) -> dict[str, Any]:
        """What GET /cluster says."""
        view: dict[str, Any] = self.http.get("/cluster").json()
        return view

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        """The answer to a non-streaming chat completion with one user message."""
        body = {"messages": [{"role": "user", "content": text}], **fields}
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def wait_idle(self, seconds: float = 10.0) -> dict[str, Any]:
        """The picture once nothing is left of any request."""

        def idle() -> dict[str, Any] | None:
            view = self.cluster()
            counts = view["counters"]
            names = ("channels", "sequences", "slots", "journal")
            return view if all(counts[name] == 0 for name in names) else None

        view: dict[str, Any] = wait_until(idle, seconds, "idle")
        return view


@contextmanager
def serving(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready; stopped, with all its children, on leaving."""
    with Server(*arguments, env=env) as server:
        server.wait_ready()
        yield server


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return module in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
