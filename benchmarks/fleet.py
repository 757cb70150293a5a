"""Several models with room for one, and several groups of one model.

    .venv/bin/python -m benchmarks.fleet alternate [--seconds 300] [--clients 20]
    .venv/bin/python -m benchmarks.fleet replicas [--seconds 40] [--clients 8] [--rounds 3]

`alternate`: clients that ask for two models in turn, on a server that has room for one; what
failed, how many engines ran at once, and how the memory of all its processes went. `replicas`:
independent prompts on one group of one rank and on two such groups, by turns; each engine has one
core to itself, as far as the server and the clients leave it. Each prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.pinning import ALL_CORES, pin
from cluster.node.hardware import read_hardware
from tests.e2e.cluster_process import Server, serving, wait_until
from tests.e2e.random_models import make

PROMPT_WORDS = 30
"""Some 200 tokens."""
ANSWER_TOKENS = 8
ONE_CORE = "import psutil\npsutil.cpu_count = lambda logical=True: 1\n"
"""As sitecustomize.py: a machine of one core, as far as engines' threads go."""


@dataclass
class Seen:
    """What was sampled and counted while clients asked."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds of each request."""
    engines: int = 0
    """Most at once."""
    started: set[int] = field(default_factory=set)
    """Process ids of engines."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the beginning, resident bytes of all processes)."""


def watch(server: Server, seen: Seen, over: threading.Event) -> None:
    begun = time.monotonic()
    while not over.wait(0.25):
        engines = server.engines()
        seen.engines = max(seen.engines, len(engines))
        seen.started |= {process.pid for process in engines}
        size = 0
        for process in server.family():
            try:
                size += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        seen.memory.append((time.monotonic() - begun, size))


def ask(http: httpx.Client, body: dict[str, object], seen: Seen) -> int:
    """Tokens that were computed for it, of prompt and answer; a failure is noted."""
    begun = time.monotonic()
    try:
        answer = http.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        seen.failures.append(f"{type(error).__name__}: {error}")
        return 0
    seen.answers += 1
    seen.waits.append(time.monotonic() - begun)
    usage = answer.json()["usage"]
    return int(usage["total_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])


def together(clients: int, run: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))


def alternate(seconds: float, clients: int, folder: Path) -> None:
    """Two models, room for one."""
    gigabytes = 0.45 * read_hardware().usable_bytes / 2**30
    other = str(make("qwen3", folder / "qwen3"))
    models = ("tandem-demo", "qwen3")
    seen, over = Seen(), threading.Event()
    with serving("--model", "demo", "--model", other, "--kv-gb", f"{gigabytes:.3f}") as server:
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            turn = number
            with httpx.Client(base_url=server.url, timeout=300) as http:
                while time.monotonic() < end:
                    said = f"Client {number} asks for the {turn}th time"
                    messages = [{"role": "user", "content": said}]
                    body = {"model": models[turn % 2], "messages": messages, "max_tokens": 24}
                    ask(http, body, seen)
                    turn += 1

        watching = threading.Thread(target=watch, args=(server, seen, over))
        watching.start()
        together(clients, client)
        over.set()
        watching.join()
        left = server.wait_idle()["counters"]
    part = max(1, len(seen.memory) // 4)
    first, last = (
        max(size for _, size in some) / 2**20 for some in (seen.memory[:part], seen.memory[-part:])
    )
    print("| clients | seconds | answers | failed | engines at once | loads | wait p50 / max, s |"
          " memory, MiB: first quarter / last | left over |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {clients} | {seconds:.0f} | {seen.answers} | {len(seen.failures)} | {seen.engines} | "
        f"{len(seen.started)} | {statistics.median(seen.waits):.1f} / {max(seen.waits):.1f} | "
        f"{first:.0f} / {last:.0f} | {left['journal'] + left['channels']} |"
    )
    for failure in seen.failures[:5]:
        print(failure)


@dataclass(frozen=True, slots=True)
class Rate:
    """What was computed in a while in which all clients always had a request."""

    tokens: float
    """A second, of prompts and answers."""
    engines: float
    """Cores that the engines were busy on."""
    others: float
    """The same of the rest of the server and the clients."""


def busy(server: Server) -> tuple[float, float]:
    """CPU seconds so far: of its engines, and of its other processes and this one."""
    engines = {process.pid for process in server.engines()}
    own = os.times()
    seconds = [0.0, own.user + own.system]
    for process in server.family():
        times = process.cpu_times()
        seconds[process.pid not in engines] += times.user + times.system
    return seconds[0], seconds[1]


def rate(server: Server, seconds: float, clients: int, words: random.Random, seen: Seen) -> Rate:
    """Prompts that share nothing, with short answers. The clients begin before what is counted
    and end after it: else those that are done first would leave an engine idle."""
    tokens, over = [0] * clients, threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=300) as http:
            while not over.is_set():
                said = " ".join(str(words.randrange(10**6)) for _ in range(PROMPT_WORDS))
                body: dict[str, object] = {
                    "messages": [{"role": "user", "content": said}],
                    "max_tokens": ANSWER_TOKENS,
                    "ignore_eos": True,
                }
                tokens[number] += ask(http, body, seen)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client, number) for number in range(clients)]
        time.sleep(seconds / 4)
        begun, before, (engines, others) = time.monotonic(), sum(tokens), busy(server)
        time.sleep(seconds)
        took, after, (engines_then, others_then) = (
            time.monotonic() - begun, sum(tokens), busy(server),
        )  # fmt: skip
        over.set()
        for each in asking:
            each.result()
    return Rate(
        (after - before) / took, (engines_then - engines) / took, (others_then - others) / took
    )


def give_cores(server: Server) -> None:
    """Each engine one of its own."""
    for core, engine in zip(ALL_CORES, server.engines(), strict=False):
        pin(engine.pid, frozenset({core}))


def replicas(seconds: float, clients: int, rounds: int, folder: Path) -> None:
    """One group and two, one core each, by turns."""
    model = str(make("llama_30m", folder / "llama_30m"))
    (folder / "one").mkdir(exist_ok=True)
    (folder / "one" / "sitecustomize.py").write_text(ONE_CORE)
    env = {"PYTHONPATH": f"{folder / 'one'}:{Path.cwd()}"}
    two_groups = ("--local-ranks", "2", "--replicas", "2")
    words, seen = random.Random(0), Seen()  # no prompt comes twice
    with serving("--model", model, env=env) as one, serving("--model", model, *two_groups) as two:

        def both() -> bool:
            (view,) = two.http.get("/models").json()["models"]
            return all(each["epoch"] for each in view["replicas"])

        wait_until(both, 60, "both groups serve")
        found: list[tuple[Rate, Rate]] = []
        for _ in range(rounds):
            for server in (one, two):
                give_cores(server)
            found.append(
                (
                    rate(one, seconds, clients, words, seen),
                    rate(two, seconds, clients, words, seen),
                )
            )
    print(
        "| clients | one group, tok/s (cores of engines, of others) | two groups | ratio | failed |"
    )
    print("|---|---|---|---|---|")
    for first, second in found:
        told = (f"{r.tokens:.0f} ({r.engines:.2f}, {r.others:.2f})" for r in (first, second))
        ratio = f"{second.tokens / first.tokens:.2f}"
        print(f"| {clients} | {' | '.join(told)} | {ratio} | {len(seen.failures)} |")
    median = statistics.median(second.tokens / first.tokens for first, second in found)
    print(f"\nratio in the median of {rounds} rounds: {median:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Several models, several groups.")
    parser.add_argument("what", choices=("alternate", "replicas"))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "alternate":
            alternate(given.seconds or 300.0, given.clients or 20, Path(folder))
        else:
            replicas(given.seconds or 40.0, given.clients or 8, given.rounds, Path(folder))


if __name__ == "__main__":
    main()
