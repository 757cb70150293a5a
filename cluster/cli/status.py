"""`tandem status`: a picture of a running server."""

from __future__ import annotations

import json
import time
from typing import Annotated, TypeVar

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cluster.cli.picture import picture
from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, get
from cluster.core.errors import SetupError, VersionMismatch
from cluster.core.view import ClusterView, ModelView

CLUSTER = TypeAdapter(ClusterView)
MODELS = TypeAdapter(tuple[ModelView, ...])

T = TypeVar("T")


def status(
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and keep it up to date.")] = (
        False
    ),
    interval: Annotated[
        float, typer.Option(help="With --watch: seconds between two looks.", min=0.1)
    ] = 1.0,
    model: Annotated[
        str | None,
        typer.Option(help="Of this model, instead of the first one.", metavar="MODEL"),
    ] = None,
    replica: Annotated[
        int | None,
        typer.Option(help="Of this group of the model, counted from 0.", metavar="N", min=0),
    ] = None,
) -> None:
    """Show nodes, ranks, memory, live requests and speed of a running server.

    Without --model and --replica it is the first model's first group, with the requests of all.

    Exit code 0: it is there and healthy. 1: it is not.

    **Examples**

        tandem status
        tandem status --watch --url 192.168.1.10:8642
        tandem status --model gpt-oss-20b --replica 1
        tandem status --json | jq .decode_tokens_per_second
    """
    console = Console(highlight=False)
    path = cluster_path(model, replica)
    with connect(url, key, ca) as client:
        if watch:
            _watch(client, console, interval, path)
            return
        raw = get(client, path)
        view = parse_view(raw)
        if as_json:
            typer.echo(json.dumps(raw, indent=2, ensure_ascii=False))
        else:
            console.print(_drawn(client, console, view))
    if not view.health.ok:
        raise typer.Exit(1)


def cluster_path(model: str | None, replica: int | None) -> str:
    """Where a server tells of one group."""
    named = {"model": model, "replica": replica}
    asked = httpx.QueryParams({name: value for name, value in named.items() if value is not None})
    return f"/cluster?{asked}" if asked else "/cluster"


def _drawn(client: httpx.Client, console: Console, view: ClusterView) -> RenderableType:
    models = _parse(MODELS, get(client, "/models").get("models", []))
    return picture(view, models, console.width)


def _watch(client: httpx.Client, console: Console, interval: float, path: str) -> None:
    """Draw until Ctrl-C. A server that goes away is waited for."""
    drawn = _drawn(client, console, parse_view(get(client, path)))
    with Live(drawn, console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                time.sleep(interval)
                try:
                    drawn = _drawn(client, console, parse_view(get(client, path)))
                    live.update(drawn, refresh=True)
                except VersionMismatch:
                    raise
                except SetupError as error:
                    live.update(Group(Text(str(error), style="bold red"), drawn), refresh=True)
        except KeyboardInterrupt:
            return


def parse_view(raw: object) -> ClusterView:
    """What `GET /cluster` has answered; raises VersionMismatch when it is in other terms."""
    return _parse(CLUSTER, raw)


def _parse(terms: TypeAdapter[T], raw: object) -> T:
    try:
        return terms.validate_python(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole answer"
        raise VersionMismatch(
            f"the server speaks of its cluster in other terms than this command ({where}): use "
            "the same version of tandem on both sides"
        ) from error
