"""Several models with room for one, and several groups of one model.

    .venv/bin/python -m benchmarks.fleet alternate [--seconds 300] [--clients 20]
    .venv/bin/python -m benchmarks.fleet replicas [--seconds 30] [--clients 12]

`alternate`: clients that ask for two models in turn, on a server that has room for one; what
failed, how many engines ran at once, and how the memory of all its processes went. `replicas`:
independent prompts on one group of one rank that computes on one core, then on two such groups.
Each prints a Markdown table.
"""

from __future__ import annotations

import argparse
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

from cluster.node.hardware import read_hardware
from tests.e2e.cluster_process import Server, serving, wait_until
from tests.e2e.random_models import make

PROMPT_WORDS = 60
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


def ask(url: str, body: dict[str, object], seen: Seen) -> int:
    """Tokens that were computed for it, of prompt and answer; a failure is noted."""
    begun = time.monotonic()
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
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
            while time.monotonic() < end:
                said = [{"role": "user", "content": f"Client {number} asks for the {turn}th time"}]
                model = models[turn % 2]
                ask(server.url, {"model": model, "messages": said, "max_tokens": 24}, seen)
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


def rate(server: Server, seconds: float, clients: int, seen: Seen) -> float:
    """Tokens computed a second, of prompts that share nothing and short answers to them."""
    url, tokens = server.url, [0] * clients
    words = random.Random(0)  # goes on from round to round: no prompt comes twice

    def client(number: int, seconds: float = seconds) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = " ".join(str(words.randrange(10**6)) for _ in range(PROMPT_WORDS))
            body: dict[str, object] = {
                "messages": [{"role": "user", "content": said}],
                "max_tokens": 16,
                "ignore_eos": True,
            }
            tokens[number] += ask(url, body, seen)

    together(clients, lambda number: client(number, seconds / 4))  # warm
    tokens[:] = [0] * clients
    begun = time.monotonic()
    together(clients, client)
    return sum(tokens) / (time.monotonic() - begun)


def replicas(seconds: float, clients: int, folder: Path) -> None:
    """One group and two, one core each."""
    model = str(make("llama_30m", folder / "llama_30m"))
    (folder / "one").mkdir(exist_ok=True)
    (folder / "one" / "sitecustomize.py").write_text(ONE_CORE)
    path = f"{folder / 'one'}:{Path.cwd()}"
    seen = Seen()
    with serving("--model", model, env={"PYTHONPATH": path}) as server:
        one = rate(server, seconds, clients, seen)
    with serving("--model", model, "--local-ranks", "2", "--replicas", "2") as server:

        def both() -> bool:
            (view,) = server.http.get("/models").json()["models"]
            return all(each["epoch"] for each in view["replicas"])

        wait_until(both, 60, "both groups serve")
        two = rate(server, seconds, clients, seen)
    print("| clients | one group, tok/s | two groups, tok/s | ratio | failed |")
    print("|---|---|---|---|---|")
    print(f"| {clients} | {one:.1f} | {two:.1f} | {two / one:.2f} | {len(seen.failures)} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Several models, several groups.")
    parser.add_argument("what", choices=("alternate", "replicas"))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--clients", type=int)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "alternate":
            alternate(given.seconds or 300.0, given.clients or 20, Path(folder))
        else:
            replicas(given.seconds or 30.0, given.clients or 12, Path(folder))


if __name__ == "__main__":
    main()
