"""Whether `tandem bench` and GuideLLM find the same of one server, under the same load.

    python3 -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm
    .venv/bin/python -m benchmarks.agreement --guidellm /tmp/guidellm/bin/guidellm
        [--url http://127.0.0.1:8642] [--clients 4] [--requests 80] [--rounds 3]
        [--prompt 128] [--output 64] [--together]

Both run a closed loop of the same number of clients and requests, with prompts and answers of the
same lengths but other words in each run, so that no prefix cache knows them. They take turns, and
swap places from round to round. Each figure is what the generator itself reports. On a machine
whose speed moves by more than what is looked for, --together has both ask at the same time, each
with its own clients, and takes of `tandem bench` what it saw while GuideLLM ran. Prints a
Markdown table with the median of each round's own ratio; exits with 1 where one is off by more
than 5%.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from cluster.bench.figures import Spread, summarise
from cluster.bench.probe import probe
from cluster.bench.prompts import Prompts
from cluster.bench.result import Level, Request, Slo, Status, from_json

MOST = 0.05
"""How far apart they may be."""
TOKENIZER = Path(__file__).resolve().parent.parent / "cluster" / "demo"
"""GuideLLM wants one; the counts are the server's own."""
NULL = subprocess.DEVNULL
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    """What both are told."""

    url: str
    model: str
    clients: int
    requests: int
    prompt: int
    output: int


def ours(load: Load, folder: Path) -> Figures:
    """What `tandem bench` reports."""
    out = folder / "ours.json"
    subprocess.run(_bench(load, out, "--requests", load.requests), check=True, stdout=NULL)
    (level,) = from_json(out.read_text(), out.name).levels
    return _figures(level)


def both(load: Load, folder: Path, guidellm: Path) -> tuple[Figures, Figures]:
    """What both find at the same time, each with its own clients; of `tandem bench` what it
    recorded while GuideLLM ran."""
    out = folder / "ours.json"
    command = _bench(load, out, "--seconds", 3600)
    with subprocess.Popen(command, stdout=NULL) as process:
        try:
            found = _guidellm(load, folder, guidellm)
        finally:
            process.send_signal(signal.SIGINT)
    (level,) = from_json(out.read_text(), out.name).levels
    return _figures(_cut(level, found["start_time"], found["end_time"])), _reported(found)


def _cut(level: Level, begin: float, end: float) -> Level:
    """The whole requests of a time, in Unix seconds, and the tokens that came in it."""
    at, window = begin - level.began, end - begin

    def shifted(request: Request) -> Request:
        first, last = (None if t is None else t - at for t in (request.first, request.last))
        begun, sent, over = request.planned - at, request.sent - at, request.end - at
        whole = request.status == "ok" and sent >= 0 and over <= window
        status: Status = "ok" if whole else "unfinished"
        return replace(
            request, planned=begun, sent=sent, end=over, first=first, last=last, status=status
        )

    shifting = map(shifted, level.requests)
    return Level(level.load, window, tuple(r for r in shifting if r.end > 0 and r.sent < window))


def _bench(load: Load, out: Path, *until: object) -> list[str]:
    options = {
        "--url": load.url,
        "--model": load.model,
        "--concurrency": load.clients,
        "--prompt": load.prompt,
        "--output": load.output,
        "--warmup": 0,
        "--out": out,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "cluster.cli", "bench", *words, *map(str, until)]


def _figures(level: Level) -> Figures:
    found = summarise(level, Slo())
    figures = {"output tok/s": found.output_rate, "req/s": found.request_rate}
    for name, title in (("ttft", "TTFT"), ("itl", "ITL"), ("e2e", "E2E")):
        spread = found.spreads[name]
        assert isinstance(spread, Spread)
        figures |= {
            f"{title} mean, ms": 1000 * spread.mean,
            f"{title} p50, ms": 1000 * spread.p50,
            f"{title} p95, ms": 1000 * spread.p95,
        }
    return figures


def theirs(load: Load, folder: Path, guidellm: Path) -> Figures:
    """What GuideLLM reports."""
    return _reported(_guidellm(load, folder, guidellm))


def _guidellm(load: Load, folder: Path, guidellm: Path) -> dict[str, Any]:
    """Its one benchmark."""
    out, data = folder / "theirs.json", folder / "prompts.jsonl"
    _write_prompts(load, data)
    options = {
        "--backend": f"kind=openai_http,target={load.url},model={load.model}",
        "--profile": f"kind=concurrent,streams={load.clients}",
        "--constraint": f"kind=max_requests,count={load.requests}",
        "--tokenizer": f"kind=hf_auto,model={TOKENIZER}",
        "--data": f"kind=json_file,path={data}",
        "--output": f"kind=json,path={out}",
    }
    words = [word for pair in options.items() for word in pair]
    command = [str(guidellm), "run", *words, "--disable-console"]
    subprocess.run(command, check=True, stdout=NULL, env={**os.environ, **OFFLINE})
    found: dict[str, Any]
    (found,) = json.loads(out.read_text())["benchmarks"]
    totals = found["metrics"]["request_totals"]
    if totals["successful"] != load.requests:
        raise SystemExit(f"GuideLLM: {totals}")
    return found


def _reported(found: dict[str, Any]) -> Figures:
    metrics: dict[str, Any] = found["metrics"]
    figures = {
        "output tok/s": metrics["output_tokens_per_second"]["total"]["mean"],
        "req/s": metrics["requests_per_second"]["successful"]["mean"],
    }
    kinds = {"TTFT": "time_to_first_token_ms", "ITL": "inter_token_latency_ms"}
    for title, name, scale in (
        *((t, n, 1) for t, n in kinds.items()),
        ("E2E", "request_latency", 1000),
    ):
        of = metrics[name]["successful"]
        figures |= {
            f"{title} mean, ms": scale * of["mean"],
            f"{title} p50, ms": scale * of["median"],
            f"{title} p95, ms": scale * of["percentiles"]["p95"],
        }
    return figures


def _write_prompts(load: Load, path: Path) -> None:
    nonce = secrets.token_hex(4)
    with httpx.Client(base_url=load.url, timeout=60) as client:
        prompts = Prompts(nonce, probe(client, load.model, {}, nonce).calibration)
    lines = (
        {
            "prompt": prompts.question(load.prompt, 0, number, 0)["content"],
            "output_tokens_count": load.output,
        }
        for number in range(load.requests)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def table(rounds: list[tuple[Figures, Figures]]) -> tuple[str, list[str]]:
    """As Markdown, and the names of figures that are too far apart."""
    lines = [
        "| figure | tandem bench | GuideLLM | ratio (rounds) | within 5% |",
        "|---|---|---|---|---|",
    ]
    apart = []
    for name in rounds[0][0]:
        a, b = ([pair[side][name] for pair in rounds] for side in (0, 1))
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        ratio = statistics.median(ratios)
        if abs(ratio - 1) > MOST:
            apart.append(name)
        each = ", ".join(f"{value:.3f}" for value in ratios)
        lines.append(
            f"| {name} | {statistics.median(a):.4g} | {statistics.median(b):.4g} | {ratio:.3f} "
            f"({each}) | {'no' if name in apart else 'yes'} |"
        )
    return "\n".join(lines), apart


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guidellm", type=Path, required=True, help="the other's command")
    parser.add_argument("--url", default="http://127.0.0.1:8642")
    for name, value in (("clients", 4), ("requests", 80), ("prompt", 128), ("output", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="at the same time")
    options = parser.parse_args()
    model = httpx.get(f"{options.url}/v1/models").json()["data"][0]["id"]
    load = Load(
        options.url, model, options.clients, options.requests, options.prompt, options.output
    )
    rounds: list[tuple[Figures, Figures]] = []
    apart: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.rounds):
            if options.together:
                pair = both(load, folder, options.guidellm)
            elif number % 2 == 0:
                pair = ours(load, folder), theirs(load, folder, options.guidellm)
            else:
                second = theirs(load, folder, options.guidellm)
                pair = ours(load, folder), second
            rounds.append(pair)
            text, apart = table(rounds)
            print(f"{text}\n", flush=True)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
