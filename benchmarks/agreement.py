"""Whether `tandem bench` and GuideLLM find the same of one server, under the same load.

    python3 -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm
    .venv/bin/python -m benchmarks.agreement --guidellm /tmp/guidellm/bin/guidellm
        [--url http://127.0.0.1:8642] [--clients 4] [--requests 80] [--rounds 3]
        [--prompt 128] [--output 64]

Both run a closed loop of the same number of clients and requests, with prompts and answers of the
same lengths but other words in each run, so that no prefix cache knows them. They take turns, and
swap places from round to round. Each figure is what the generator itself reports. Prints a
Markdown table with the median of each round's own ratio; exits with 1 where one is off by more
than 5%.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cluster.bench.figures import Spread, summarise
from cluster.bench.probe import probe
from cluster.bench.prompts import Prompts
from cluster.bench.result import Slo, from_json

MOST = 0.05
"""How far apart they may be."""
TOKENIZER = Path(__file__).resolve().parent.parent / "cluster" / "demo"
"""GuideLLM wants one; the counts are the server's own."""
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
    options = {
        "--url": load.url,
        "--model": load.model,
        "--concurrency": load.clients,
        "--requests": load.requests,
        "--prompt": load.prompt,
        "--output": load.output,
        "--warmup": 0,
        "--out": out,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "cluster.cli", "bench", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (level,) = from_json(out.read_text(), out.name).levels
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
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **OFFLINE})
    (found,) = json.loads(out.read_text())["benchmarks"]
    metrics: dict[str, Any] = found["metrics"]
    if metrics["request_totals"]["successful"] != load.requests:
        raise SystemExit(f"GuideLLM: {metrics['request_totals']}")
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
    options = parser.parse_args()
    model = httpx.get(f"{options.url}/v1/models").json()["data"][0]["id"]
    load = Load(
        options.url, model, options.clients, options.requests, options.prompt, options.output
    )
    rounds: list[tuple[Figures, Figures]] = []
    apart: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides: tuple[Callable[[], Figures], ...] = (
            lambda: ours(load, folder),
            lambda: theirs(load, folder, options.guidellm),
        )
        for number in range(options.rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {side: sides[side]() for side in order}
            rounds.append((found[0], found[1]))
            text, apart = table(rounds)
            print(f"{text}\n", flush=True)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
