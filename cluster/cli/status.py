"""`tandem status`: a picture of a running server."""

from __future__ import annotations

import json
import time
from typing import Annotated

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cluster.cli.picture import picture
from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, get
from cluster.core.errors import SetupError, VersionMismatch
from cluster.core.view import ClusterView

CLUSTER = TypeAdapter(ClusterView)


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
) -> None:
    """Show nodes, ranks, memory, live requests and speed of a running server.

    Exit code 0: it is there and healthy. 1: it is not.

    **Examples**

        tandem status
        tandem status --watch --url 192.168.1.10:8642
        tandem status --json | jq .decode_tokens_per_second
    """
    console = Console(highlight=False)
    with connect(url, key, ca) as client:
        if watch:
            _watch(client, console, interval)
            return
        raw = get(client, "/cluster")
        view = parse_view(raw)
        if as_json:
            typer.echo(json.dumps(raw, indent=2, ensure_ascii=False))
        else:
            console.print(picture(view))
    if not view.health.ok:
        raise typer.Exit(1)


def _watch(client: httpx.Client, console: Console, interval: float) -> None:
    """Draw until Ctrl-C. A server that goes away is waited for."""
    drawn: RenderableType = picture(parse_view(get(client, "/cluster")))
    with Live(drawn, console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                time.sleep(interval)
                try:
                    drawn = picture(parse_view(get(client, "/cluster")))
                    live.update(drawn, refresh=True)
                except VersionMismatch:
                    raise
                except SetupError as error:
                    live.update(Group(Text(str(error), style="bold red"), drawn), refresh=True)
        except KeyboardInterrupt:
            return


def parse_view(raw: object) -> ClusterView:
    """What `GET /cluster` has answered; raises VersionMismatch when it is in other terms."""
    try:
        return CLUSTER.validate_python(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole answer"
        raise VersionMismatch(
            f"the server speaks of its cluster in other terms than this command ({where}): use "
            "the same version of tandem on both sides"
        ) from error
