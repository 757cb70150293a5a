"""What the spine promises, measured: one table of figures and bounds for this machine.

    .venv/bin/python -m benchmarks.spine [--ranks 1,2]

Starts real servers on free loopback ports, with the demo model and a random 30M llama of 32k
context, and takes a few minutes. Nothing here is a test: it prints, and leaves the judgement to
whoever reads. The tests in tests/e2e hold the bounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.e2e.cluster_process import Server, serving
from tests.e2e.random_models import make
from tests.e2e.raw_client import RawClient
from tests.e2e.test_cancel import wait_prefill, words
from tests.e2e.test_keepalive import first_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    what: str
    figure: str
    bound: str


Measure = Callable[[Server], Iterator[Row]]
NEVER_ENDS = {"0": -100.0, "1": -100.0, "2": -100.0}


def hang_up(server: Server) -> Iterator[Row]:
    """A client leaves 20% into a long prefill."""
    first, steps = [], []
    for number in range(3):
        with RawClient(server, words(12_000, f"bench{number}"), max_tokens=4, stream=True) as c:
            wait_prefill(server, 0.2)
            done = min(rank["last_seq"] for rank in server.cluster()["ranks"])
            left = time.monotonic()
            c.close()
            with RawClient(server, f"{number} hello", max_tokens=1, stream=True) as stranger:
                stranger.read_until(b"data: ", 20)
                first.append(time.monotonic() - left)
        view = server.wait_idle(20)
        # Less the stranger's prefill, and the steps that park each of the two.
        steps.append(max(rank["last_seq"] for rank in view["ranks"]) - done - 3)
    yield Row("first token of another client after a hang-up", spread(first), "1.5 s")
    yield Row("steps computed after the hang-up", f"{max(steps)}", "2")


def keepalive(server: Server) -> Iterator[Row]:
    """Twenty seconds of a long prefill, seen from a socket."""
    with RawClient(server, words(12_000, "alive"), max_tokens=1, stream=True) as client:
        headers = client.read_until(b"\r\n\r\n", 5)
        while time.monotonic() < client.begin + 20:
            client.read(10)
    yield Row("headers of a 20 s prefill", f"{headers:.3f} s", "0.3 s")
    yield Row("longest silence in it", f"{max(client.gaps):.2f} s", "5.5 s")
    server.wait_idle(20)


def retry(server: Server) -> Iterator[Row]:
    """The same prompt with another tail, right after a cancel."""
    prompt = words(2400, "retry")
    with RawClient(server, prompt, max_tokens=4, stream=True) as client:
        wait_prefill(server, 0.5)
        client.close()
    server.wait_idle()
    usage = server.chat(prompt + " and another end", max_tokens=4)["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    yield Row("cached in a retry, cancelled half way", f"{cached} of {usage['prompt_tokens']}", "-")


def first_token(server: Server) -> Iterator[Row]:
    """A stream's first token against the whole of an answer of one token."""
    streamed, whole = first_tokens(server)
    late = statistics.median(streamed) - statistics.median(whole)
    yield Row("first token, streamed", f"{statistics.median(streamed) * 1e3:.1f} ms", "-")
    yield Row("later than an answer of one token", f"{late * 1e3:+.1f} ms", "5 ms")


def fairness(server: Server) -> Iterator[Row]:
    """A decoding stream beside a long prefill."""
    with RawClient(server, "hi", max_tokens=6000, stream=True, logit_bias=NEVER_ENDS) as reader:
        reader.read_until(b'"content":"', 10)
        with RawClient(server, words(7000, "fair"), max_tokens=2, stream=True) as other:
            reader.gaps.clear()
            while b'"finish_reason":"' not in other.received:
                reader.read(10)
                try:
                    other.read(0.001)
                except TimeoutError:
                    continue
    yield Row("worst gap of a stream beside a long prefill", f"{max(reader.gaps):.3f} s", "0.5 s")
    server.wait_idle(20)


def speed(server: Server) -> Iterator[Row]:
    """One stream, for scale."""
    begin = time.monotonic()
    usage = server.chat("hello", max_tokens=600, logit_bias=NEVER_ENDS)["usage"]
    took = time.monotonic() - begin
    yield Row("decode, one stream", f"{usage['completion_tokens'] / took:.0f} tok/s", "-")


def idle(server: Server) -> Iterator[Row]:
    """CPU of each process with nothing to do, over five seconds."""
    server.wait_idle()
    processes = server.family()
    before = [sum(p.cpu_times()[:2]) for p in processes]
    time.sleep(5)
    used = [sum(p.cpu_times()[:2]) - was for p, was in zip(processes, before, strict=True)]
    yield Row("CPU of the busiest idle process", f"{max(used) / 5:.2%}", "2%")


def stop(server: Server) -> Iterator[Row]:
    """SIGTERM; the server is gone afterwards."""
    yield Row("SIGTERM to the last process gone", f"{server.stop():.2f} s", "5 s")


def kill(server: Server) -> Iterator[Row]:
    """SIGKILL to the coordinator; its engines find out."""
    family = server.family()
    begin = time.monotonic()
    os.kill(server.popen.pid, signal.SIGKILL)
    server.popen.wait()
    psutil.wait_procs(family, timeout=30)
    yield Row("SIGKILL to the last engine gone", f"{time.monotonic() - begin:.1f} s", "15 s")


def spread(seconds: list[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(seconds):.2f} s, worst {max(seconds):.2f}"


def measure(arguments: tuple[str, ...], measures: tuple[Measure, ...]) -> Iterator[Row]:
    """All measures on one server, in order."""
    with serving(*arguments) as server:
        for each in measures:
            yield from each(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="1,2", help="world sizes, separated by commas")
    worlds = [int(part) for part in parser.parse_args().ranks.split(",")]
    console = Console()
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    for column in ("model", "ranks", "what", "figure", "bound"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        llama = str(make("llama_30m", Path(folder) / "llama_30m"))
        plans: list[tuple[str, str, tuple[Measure, ...]]] = [
            ("demo", "demo", (speed, first_token, fairness, idle, stop)),
            ("demo", "demo", (kill,)),
            ("llama 30M", llama, (hang_up, keepalive, retry, idle)),
        ]
        for world in worlds:
            for name, model, measures in plans:
                arguments = ("--model", model, "--local-ranks", str(world))
                for row in measure(arguments, measures):
                    table.add_row(name, str(world), row.what, row.figure, row.bound)
                    console.print(f"{name}, {world}: {row.what}: {row.figure}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
