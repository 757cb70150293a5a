"""`tandem bench`: measures an OpenAI-compatible server under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url
from cluster.core.errors import BadConfiguration, SetupError

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
    from cluster.bench.load import parse_loads
    from cluster.bench.result import Asked, Slo
    from cluster.bench.slo import parse_slo
    from cluster.cli import benching

    if compare is not None:
        benching.compare(*compare)
        return
    for path in (out, html):
        if path is not None and not path.parent.is_dir():  # said before a long run, not after it
            raise BadConfiguration(f"there is no folder {path.parent} to write {path.name} to")
    if show is not None:
        benching.tell(benching.read(show), out=None, html=html)
        return
    if concurrency and rates:
        raise BadConfiguration("--concurrency is a closed loop, --rates an open one: give one")
    if rates:
        loads = parse_loads(rates, "open", "--rates")
    else:
        loads = parse_loads(concurrency or CLIENTS, "closed", "--concurrency")
    asked = Asked(
        prompt=f"from {lengths.name}" if lengths else prompt,
        output=f"from {lengths.name}" if lengths else output,
        prefix=prefix,
        turns=turns,
        think=think,
        cancel=cancel,
        seed=seed,
        seconds=SECONDS if seconds is None and requests is None else seconds,
        requests=requests,
        warmup=warmup,
        timeout=timeout,
        temperature=temperature,
        fields={},
        slo=parse_slo(slo) if slo else Slo(),
    )
    pairs = benching.pairs(prompt, output, lengths)
    result = benching.measure(url, key, ca, model, asked, pairs, loads)
    benching.tell(result, out=out, html=html)
    if result.interrupted:
        raise KeyboardInterrupt
    if not any(request.status == "ok" for level in result.levels for request in level.requests):
        raise SetupError("no request got a whole answer")
