"""Real `tandem serve` and `tandem worker` processes, each in a machine of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any

import httpx

from tests.netns.network import ROOT, Machine, Network, Program, enter

FORM_SECONDS = 90.0
URL = "http://127.0.0.1:8642"
CONTROL = "10.77.0.1:8643"


def wait_until(condition: Callable[[], Any], seconds: float, what: Callable[[], object]) -> Any:
    """The first true value of `condition()`; AssertionError with `what()` after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"after {seconds:g} s still not so:\n{what()}"
        time.sleep(0.1)
    return value


@dataclass
class Answer:
    """A streamed answer, noted by a thread while it comes."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    """As the stream names them, one by one."""
    arrivals: list[float] = field(default_factory=list)
    """Of each event with text, on the monotonic clock."""
    error: str = ""
    finish: str = ""
    over: bool = False
    """[DONE] has come."""
    thread: threading.Thread | None = None

    def note(self, line: str) -> None:
        """One line of the stream."""
        if not line.startswith("data: "):
            return
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.over = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = str(event["error"])
            return
        for choice in event["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            for each in (choice.get("logprobs") or {}).get("content") or []:
                self.tokens.append(each["token"])
            if text := choice["delta"].get("content"):
                self.text += text
                self.arrivals.append(time.monotonic())

    def reach(self, count: int, seconds: float = 60.0) -> None:
        """Return once so many tokens have come."""
        wait_until(lambda: len(self.tokens) >= count or self.over, seconds, lambda: self)
        assert not self.over, self

    def join(self, seconds: float = 120.0) -> None:
        """Return once the stream has ended."""
        assert self.thread is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"after {seconds:g} s: {self}"

    @property
    def longest_gap(self) -> float:
        """Seconds of the longest silence between two events with text."""
        return max((after - before for before, after in pairwise(self.arrivals)), default=0.0)


class Cluster:
    """A server on the first machine of a network, and workers on others."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.first = network.machines[0]
        self.workers: dict[str, Program] = {}
        """By the address of the machine, the latest."""

    def tandem(self, *arguments: str) -> str:
        """What a command on the first machine that ends by itself has printed."""
        return tandem(self.first, *arguments)

    def serve(self, *options: str) -> Program:
        """Start the server."""
        self.server = self.first.run("-m", "cluster.cli", "serve", *options, log="serve.log")
        return self.server

    def work(self, machine: Machine, *options: str) -> Program:
        """Start a worker."""
        program = machine.run("-m", "cluster.cli", "worker", *options, log="worker.log")
        self.workers[machine.address] = program
        return program

    def view(self) -> dict[str, Any]:
        """What GET /cluster says; nothing while nobody answers."""
        try:
            view: dict[str, Any] = self.first.inside(_get, "/cluster")
        except OSError:
            return {}
        return view

    def wait_epoch(self, world: int, after: int = 0, seconds: float = FORM_SECONDS) -> int:
        """The number of the epoch that runs with so many ranks, later than epoch `after`."""

        def formed() -> int:
            view = self.view()
            good = view.get("world") == world and view["epoch"] > after
            return int(view["epoch"]) if good else 0

        return int(wait_until(formed, seconds, lambda: f"{world} ranks\n{self.logs()}"))

    @property
    def hosts(self) -> set[str]:
        """Where the engines of the epoch that runs listen for the coordinator."""
        return {rank["endpoint"].split(":")[0] for rank in self.view()["ranks"]}

    def ask(self, content: str, tokens: int) -> Answer:
        """Begin to stream a greedy answer of so many tokens, which does not repeat itself."""
        body = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "frequency_penalty": 2.0, "presence_penalty": 2.0, "logprobs": True,
        }  # fmt: skip
        answer = Answer()

        def read() -> None:
            enter(self.first.namespace)
            url = f"{URL}/v1/chat/completions"
            with httpx.stream("POST", url, json=body, timeout=60) as response:
                if response.status_code != 200:
                    answer.error = f"{response.status_code}: {response.read()!r}"
                    return
                for line in response.iter_lines():
                    answer.note(line)

        answer.thread = threading.Thread(target=read, daemon=True)
        answer.thread.start()
        return answer

    def idle(self) -> None:
        """Return once nothing is left of any request."""
        names = ("channels", "sequences", "slots", "journal", "orphan_tokens")
        wait_until(
            lambda: (view := self.view()) and all(view["counters"][name] == 0 for name in names),
            20,
            self.view,
        )

    def logs(self) -> str:
        """All that the processes have written."""
        programs = {"server": self.server, **self.workers}
        return "\n".join(f"--- {name}\n{program.output}" for name, program in programs.items())


def _get(path: str) -> Any:
    """What the server of the machine that this thread is in answers."""
    connection = HTTPConnection("127.0.0.1", 8642, timeout=10)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def tandem(machine: Machine, *arguments: str) -> str:
    """What a command that ends by itself has printed."""
    done = subprocess.run(
        ["ip", "netns", "exec", machine.namespace, sys.executable, "-m", "cluster.cli", *arguments],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
        env=machine.environment,
    )  # fmt: skip
    return done.stdout.strip()
