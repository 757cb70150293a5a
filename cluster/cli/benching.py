"""What `tandem bench` does: look at the server, run the levels, tell what came of them."""

from __future__ import annotations

import os
import platform
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from rich.console import Console

from cluster.bench import compare as comparing
from cluster.bench.drive import Bounds
from cluster.bench.figures import as_data, summarise
from cluster.bench.http import Target
from cluster.bench.lengths import Independent, Pairs, parse_lengths, parse_pairs
from cluster.bench.load import Load
from cluster.bench.probe import probe
from cluster.bench.prompts import Prompts
from cluster.bench.report import report
from cluster.bench.result import Asked, Run, from_json, to_json
from cluster.bench.run import Plan, run
from cluster.bench.sessions import Workload
from cluster.bench.table import comparison, results
from cluster.bench.warnings import warnings
from cluster.cli.bench_progress import Progress
from cluster.cli.chat import served_model
from cluster.cli.server import connect, readable_errors
from cluster.core.errors import BadConfiguration, SetupError


def pairs(prompt: str, output: str, lengths: Path | None) -> Pairs:
    """Where lengths come from: two distributions, or the file `lengths`. Raises
    BadConfiguration."""
    if lengths is None:
        return Independent(parse_lengths(prompt, "--prompt"), parse_lengths(output, "--output"))
    return parse_pairs(_text(lengths), str(lengths))


def measure(
    url: str,
    key: str | None,
    ca: Path | None,
    model: str | None,
    asked: Asked,
    lengths: Pairs,
    loads: Sequence[Load],
) -> Run:
    """Look at the server at `url`, which may end in /v1, then run all levels. Raises SetupError
    where it answers nothing."""
    console = Console(stderr=True, highlight=False)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    nonce = secrets.token_hex(4)
    fields = {} if asked.temperature is None else {"temperature": asked.temperature}
    with connect(url.rstrip("/").removesuffix("/v1"), key, ca) as client:
        model = model or served_model(client)
        with readable_errors(client), console.status(f"trying {model}", spinner="dots"):
            found = probe(client, model, fields, nonce)
        target = _target(client, ca)
    plan = Plan(
        target=target,
        body=found.body,
        prompts=Prompts(nonce, found.calibration, asked.prefix),
        work=Workload(lengths, asked.seed, asked.prefix, asked.turns, asked.think, asked.cancel),
        loads=loads,
        bounds=Bounds(asked.seconds, asked.requests),
        warmup=asked.warmup,
        timeout=asked.timeout,
    )
    with Progress(console, loads, plan.bounds) as progress:
        outcome = run(plan, progress.watch)
    return Run(
        started=started,
        url=str(client.base_url).rstrip("/"),
        model=model,
        environment=environment(),
        nonce=nonce,
        calibration=found.calibration,
        asked=replace(asked, fields=dict(found.body.fields or {})),
        levels=tuple(outcome.levels),
        interrupted=outcome.interrupted,
        warnings=found.notes,
    )


def _target(client: httpx.Client, ca: Path | None) -> Target:
    """Where `client` goes, and as whom."""
    where = client.base_url
    tls = ssl.create_default_context(cafile=ca) if where.scheme == "https" else None
    return Target(
        host=where.host,
        port=where.port or (443 if tls else 80),
        path=where.path.rstrip("/"),
        tls=tls,
        headers={name: text for name, text in client.headers.items() if name == "authorization"},
    )


def environment() -> dict[str, str]:
    """What figures depend on at the client's side."""
    return {
        "tandem": version("tandem"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


def tell(result: Run, *, out: Path | None, html: Path | None) -> None:
    """The table; and the files that were asked for."""
    summaries = [summarise(level, result.asked.slo) for level in result.levels]
    beware = [*result.warnings]
    for level, summary in zip(result.levels, summaries, strict=True):
        beware += warnings(level, summary)
    Console(highlight=False).print(results(result, summaries, beware))
    if out is not None:
        _write(out, to_json(result, [as_data(summary) for summary in summaries]))
    if html is not None:
        _write(html, report(result, summaries, beware))


def compare(first: Path, second: Path) -> None:
    """Two results beside each other."""
    runs = read(first), read(second)
    rows = comparing.compare(*runs)
    differences = comparing.differences(*runs)
    Console(highlight=False).print(comparison(rows, (first.name, second.name), differences))


def read(path: Path) -> Run:
    """A result of --out; raises BadConfiguration."""
    return from_json(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"can't read {path}: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8", "replace")
    except OSError as error:
        raise SetupError(f"can't write {path}: {error}") from error
