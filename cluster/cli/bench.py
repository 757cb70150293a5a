"""`tandem bench`: measures an OpenAI-compatible server under load."""

from __future__ import annotations

import os
import platform
import secrets
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console

from cluster.cli.chat import served_model
from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, readable_errors
from cluster.core.errors import BadConfiguration, SetupError

if TYPE_CHECKING:
    from cluster.bench.lengths import Pairs
    from cluster.bench.load import Load
    from cluster.bench.result import Asked, Run

SECONDS = 15.0
"""Of a level, unless told otherwise."""
CLIENTS = "1,4,8"
"""The levels of a run that is told nothing."""


def bench(
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
    model: Annotated[
        str | None, typer.Option(help="Model to ask; without it, the first that is served.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help="Closed loop: so many clients, each of which asks again when it has its answer. "
            f"Several levels with commas. Without this and --rates: {CLIENTS}.",
            metavar="N,...",
            rich_help_panel="Load",
            show_default=False,
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Open loop: so many requests (with --turns: sessions) a second, as a Poisson "
            "process. Several levels with commas.",
            metavar="R,...",
            rich_help_panel="Load",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help=f"Length of each level; what is under way then is waited for. {SECONDS:g}, "
            "unless --requests is given.",
            min=1,
            max=86_400,
            rich_help_panel="Load",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            help="End each level after so many requests.",
            min=1,
            max=1_000_000,
            rich_help_panel="Load",
        ),
    ] = None,
    warmup: Annotated[
        int,
        typer.Option(
            help="Requests before the first level that do not count.",
            min=0,
            max=10_000,
            rich_help_panel="Load",
        ),
    ] = 2,
    prompt: Annotated[
        str,
        typer.Option(
            help="Tokens of a prompt: 128, 64-512 (uniform), normal:256,64 (mean, deviation) or "
            "lognormal:256,0.8 (median, sigma).",
            metavar="LENGTHS",
            rich_help_panel="Requests",
        ),
    ] = "128",
    output: Annotated[
        str,
        typer.Option(
            help="Tokens of an answer, written alike.",
            metavar="LENGTHS",
            rich_help_panel="Requests",
        ),
    ] = "64",
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="Instead of both: a file of pairs to draw from, `prompt,output` on each line.",
            metavar="FILE",
            rich_help_panel="Requests",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        int,
        typer.Option(
            help="Tokens of a system prompt that all requests share, besides their own.",
            min=0,
            max=1_000_000,
            rich_help_panel="Requests",
        ),
    ] = 0,
    turns: Annotated[
        int,
        typer.Option(
            help="Turns of a session; each has all before it in its prompt, as agents do.",
            min=1,
            max=1000,
            rich_help_panel="Requests",
        ),
    ] = 1,
    think: Annotated[
        float,
        typer.Option(
            help="Seconds between an answer and the next turn.",
            min=0,
            max=3600,
            rich_help_panel="Requests",
        ),
    ] = 0.0,
    cancel: Annotated[
        float,
        typer.Option(
            help="Share of requests that are hung up on, anywhere in their answer.",
            min=0,
            max=1,
            rich_help_panel="Requests",
        ),
    ] = 0.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Without it, the server's own default.", min=0, max=2, rich_help_panel="Requests"
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Of lengths, arrivals and hang-ups. Words are new in each run, so that no cache "
            "has them.",
            rich_help_panel="Requests",
        ),
    ] = 0,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that one request may take.",
            min=1,
            max=86_400,
            rich_help_panel="Requests",
        ),
    ] = 300.0,
    slo: Annotated[
        str | None,
        typer.Option(
            help="What a good answer is, as in ttft=500ms,itl=50ms,e2e=10s; tells the goodput.",
            metavar="LIMITS",
            rich_help_panel="Results",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write all timings and figures here, as JSON.",
            metavar="FILE",
            rich_help_panel="Results",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a report with plots here; one file, which needs no network.",
            metavar="FILE",
            rich_help_panel="Results",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option(
            help="Measure nothing: show a result of --out again, or make its --html.",
            metavar="FILE",
            rich_help_panel="Results",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Measure nothing: two results of --out beside each other, and which differences "
            "are more than noise.",
            metavar="FILE FILE",
            rich_help_panel="Results",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure an OpenAI-compatible server under load: TTFT, ITL, throughput, goodput.

    Alone, it takes a minute against the server on this machine. Ctrl-C ends it with what was
    measured so far.

    **Examples**

        tandem bench
        tandem bench --rates 1,2,4,8 --slo ttft=1s,itl=50ms --html report.html
        tandem bench --concurrency 4 --turns 5 --think 1 --prefix 2000 --cancel 0.1
        tandem bench --url https://other.lan/v1 --prompt lognormal:512,0.8 --out b.json
        tandem bench --compare a.json b.json
    """
    # Imported here so that `tandem bench --help` answers at once.
    from cluster.bench.result import Asked, Slo
    from cluster.bench.slo import parse_slo

    if compare is not None:
        _compare(*compare)
        return
    for path in (out, html):
        _check_writable(path)
    if show is not None:
        _tell(_read(show), out=None, html=html)
        return
    if concurrency and rates:
        raise BadConfiguration("--concurrency is a closed loop, --rates an open one: give one")
    if seconds is None and requests is None:
        seconds = SECONDS
    pairs = _pairs(prompt, output, lengths)
    asked = Asked(
        prompt=f"from {lengths.name}" if lengths else prompt,
        output=f"from {lengths.name}" if lengths else output,
        prefix=prefix,
        turns=turns,
        think=think,
        cancel=cancel,
        seed=seed,
        seconds=seconds,
        requests=requests,
        warmup=warmup,
        timeout=timeout,
        temperature=temperature,
        fields={},
        slo=parse_slo(slo) if slo else Slo(),
    )
    loads = _loads(concurrency, rates)
    with connect(url.rstrip("/").removesuffix("/v1"), key, ca) as client:
        result = _measure(client, _context(client, ca), model, asked, pairs, loads)
    _tell(result, out=out, html=html)
    if not any(request.status == "ok" for level in result.levels for request in level.requests):
        raise SetupError("no request got a whole answer")
    if result.interrupted:
        raise KeyboardInterrupt


def _loads(concurrency: str | None, rates: str | None) -> list[Load]:
    from cluster.bench.load import parse_loads

    if rates:
        return parse_loads(rates, "open", "--rates")
    return parse_loads(concurrency or CLIENTS, "closed", "--concurrency")


def _pairs(prompt: str, output: str, lengths: Path | None) -> Pairs:
    from cluster.bench.lengths import Independent, parse_lengths, parse_pairs

    if lengths is None:
        return Independent(parse_lengths(prompt, "--prompt"), parse_lengths(output, "--output"))
    return parse_pairs(_text(lengths, "--lengths"), str(lengths))


def _context(client: httpx.Client, ca: Path | None) -> Any:
    """What https is checked against; None for http."""
    import ssl

    if client.base_url.scheme != "https":
        return None
    return ssl.create_default_context(cafile=ca)


def _measure(
    client: httpx.Client,
    context: Any,
    model: str | None,
    asked: Asked,
    pairs: Pairs,
    loads: list[Load],
) -> Run:
    """Look at the server, then run all levels."""
    from dataclasses import replace

    from cluster.bench.drive import Bounds
    from cluster.bench.http import Target
    from cluster.bench.probe import probe
    from cluster.bench.prompts import Prompts
    from cluster.bench.result import Run
    from cluster.bench.run import Plan, run
    from cluster.bench.sessions import Workload
    from cluster.cli.bench_progress import Progress

    console = Console(stderr=True, highlight=False)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    nonce = secrets.token_hex(4)
    model = model or served_model(client)
    fields = {} if asked.temperature is None else {"temperature": asked.temperature}
    with readable_errors(client), console.status(f"trying {model}", spinner="dots"):
        found = probe(client, model, fields, nonce)
    where = client.base_url
    plan = Plan(
        target=Target(
            host=where.host,
            port=where.port or (443 if context else 80),
            path=where.path.rstrip("/"),
            tls=context,
            headers={k: v for k, v in client.headers.items() if k == "authorization"},
        ),
        body=found.body,
        prompts=Prompts(nonce, found.calibration, asked.prefix),
        work=Workload(pairs, asked.seed, asked.prefix, asked.turns, asked.think, asked.cancel),
        loads=loads,
        bounds=Bounds(asked.seconds, asked.requests),
        warmup=asked.warmup,
        timeout=asked.timeout,
    )
    with Progress(console, loads, plan.bounds) as progress:
        outcome = run(plan, progress.watch)
    return Run(
        started=started,
        url=str(where).rstrip("/"),
        model=model,
        environment=environment(),
        nonce=nonce,
        calibration=found.calibration,
        asked=replace(asked, fields=dict(found.body.fields or {})),
        levels=tuple(outcome.levels),
        interrupted=outcome.interrupted,
        warnings=found.notes,
    )


def environment() -> dict[str, str]:
    """What figures depend on at the client's side."""
    return {
        "tandem": version("tandem"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


def _tell(result: Run, *, out: Path | None, html: Path | None) -> None:
    """The table; and the files that were asked for."""
    from cluster.bench.figures import as_data, summarise
    from cluster.bench.report import report
    from cluster.bench.result import to_json
    from cluster.bench.table import results
    from cluster.bench.warnings import warnings

    summaries = [summarise(level, result.asked.slo) for level in result.levels]
    beware = [*result.warnings]
    for level, summary in zip(result.levels, summaries, strict=True):
        beware += warnings(level, summary)
    console = Console(highlight=False)
    console.print(results(result, summaries, beware))
    if out is not None:
        _write(out, to_json(result, [as_data(summary) for summary in summaries]))
    if html is not None:
        _write(html, report(result, summaries, beware))


def _compare(first: Path, second: Path) -> None:
    from cluster.bench.compare import compare, differences
    from cluster.bench.table import comparison

    runs = _read(first), _read(second)
    names = first.name, second.name
    console = Console(highlight=False)
    console.print(comparison(compare(*runs), names, differences(*runs)))


def _read(path: Path) -> Run:
    from cluster.bench.result import from_json

    return from_json(_text(path, "the result"), str(path))


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"can't read {what} {path}: {error}") from error


def _check_writable(path: Path | None) -> None:
    """Before a long run, not after it."""
    if path is not None and not path.parent.is_dir():
        raise BadConfiguration(f"there is no folder {path.parent} to write {path.name} to")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SetupError(f"can't write {path}: {error}") from error
