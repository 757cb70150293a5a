"""`tandem key`: the file of API keys that a server reads."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import KeyFile
from cluster.core.errors import BadConfiguration


class Action(StrEnum):
    """What to do with keys."""

    ADD = "add"
    LIST = "list"
    REVOKE = "revoke"


def key(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Argument(
            help="Of the key to add or to revoke: who or what uses it.", show_default=False
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(help="With add: requests that it may have under way.", min=1, max=1_000_000),
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(
            help="With add: requests that it may begin in a minute.", min=1, max=1_000_000
        ),
    ] = None,
    operator: Annotated[
        bool,
        typer.Option(
            "--operator",
            help="With add: it sees, and may cancel, the requests of all keys, loads and unloads "
            "models, and drains machines.",
        ),
    ] = False,
    key_file: KeyFile = None,
) -> None:
    """Make, list and revoke the API keys that clients of a server need.

    A key is shown once, when it is made; the file keeps a digest of it. A running server takes
    up a change within a second.

    **Examples**

        tandem key add laptop
        tandem key add ci --concurrency 4 --per-minute 60
        tandem key add dashboard --operator
        tandem key list
        tandem key revoke laptop
    """
    # Imported here so that `tandem key --help` answers at once.
    from api.keys import add_key, key_path, revoke_key

    path = key_path(key_file)
    if action is not Action.ADD and (concurrency or per_minute or operator):
        raise BadConfiguration(
            "--concurrency, --per-minute and --operator belong to `tandem key add`"
        )
    if action is Action.LIST:
        if name is not None:
            raise BadConfiguration("`tandem key list` takes no name")
        _list(path)
        return
    if name is None:
        raise BadConfiguration(f"which key? `tandem key {action} NAME`")
    if action is Action.REVOKE:
        revoke_key(path, name)
        typer.echo(f"{name} is revoked; a running server takes up to a second to know", err=True)
        return
    limits = {"concurrency": concurrency, "per_minute": per_minute}
    typer.echo(add_key(path, name, **limits, operator=operator))
    typer.echo(
        "This is the only time it is shown. Give it to clients as their API key "
        "(`Authorization: Bearer` or `x-api-key`), and to `tandem chat` as TANDEM_API_KEY.",
        err=True,
    )


def _list(path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from api.keys import read_keys

    keys = read_keys(path)
    if not keys:
        typer.echo(f"no keys in {path}: make one with `tandem key add NAME`", err=True)
        return
    columns = ("name", "created", "under way", "per minute", "operator")
    table = Table(*columns, box=None, pad_edge=False)
    for entry in keys:
        created = datetime.fromtimestamp(entry.created).astimezone()
        limits = (entry.concurrency, entry.per_minute)
        told = [*(str(n or "any") for n in limits), "yes" if entry.operator else ""]
        table.add_row(entry.name, f"{created:%Y-%m-%d %H:%M}", *told)
    Console(highlight=False).print(table)
