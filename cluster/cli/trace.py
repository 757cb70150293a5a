"""`tandem trace`: what happened to a request, into a file for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, get
from cluster.core.errors import BadConfiguration, VersionMismatch


def trace(
    request: Annotated[
        str,
        typer.Argument(
            help="Id of an answer (chatcmpl-..., msg_..., resp_...), or the x-request-id of its "
            "headers.",
            show_default=False,
        ),
    ] = "",
    last: Annotated[bool, typer.Option("--last", help="The request that came last.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write. Without it: REQUEST.trace.json in this folder; - for stdout.",
            metavar="FILE",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
) -> None:
    """Fetch what happened to a request and when, for Perfetto.

    The file opens at https://ui.perfetto.dev, which reads it in the browser and sends it nowhere:
    the queue, every step on every rank, network, parser and writes, each on a track of its own.
    The server must trace: `tandem serve --trace 32`.

    **Examples**

        tandem trace --last
        tandem trace chatcmpl-1f00 -o slow.json
    """
    if bool(request) == last:
        raise BadConfiguration("give the id of one request, or --last")
    with connect(url, key, ca) as client:
        told = get(client, f"/requests/{quote(request or 'last', safe='')}/trace")
    text = json.dumps(told)
    if str(output) == "-":
        typer.echo(text)
        return
    summary = _summary(told)
    path = output or Path(f"{_name(told)}.trace.json")
    try:
        path.write_text(text)
    except OSError as error:
        raise BadConfiguration(f"can't write {path}: {error.strerror}") from error
    typer.echo(summary)
    typer.echo(f"{path}: open it at https://ui.perfetto.dev")


def _name(told: Any) -> str:
    """Of the request, as a file may be called."""
    other = _other(told)
    ids = [*other.get("requests", []), other.get("request_id", "")]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in str(ids[0]))[:100]


def _summary(told: Any) -> str:
    """What the time went to, a line each."""
    other = _other(told)
    whole = float(other["seconds"])
    lines = [f"{whole:9.3f} s  in all" + (", so far" if other["running"] else "")]
    lines += [
        f"{took:9.3f} s  {took / whole:6.1%}  {what}" for what, took in other["went_to"].items()
    ]
    return "\n".join(lines)


def _other(told: Any) -> dict[str, Any]:
    try:
        other: dict[str, Any] = told["otherData"]
        if {"seconds", "running", "went_to"} <= other.keys():
            return other
    except (TypeError, LookupError, AttributeError):
        pass
    raise VersionMismatch("what the server answered is no trace that this command knows")
