"""`tandem token`: what a machine joins a cluster with."""

from __future__ import annotations

import re
import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import TrustFolder
from cluster.core.errors import BadConfiguration

if TYPE_CHECKING:
    from cluster.trust.authority import Authority

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_DAYS = 365


class Action(StrEnum):
    """What to do with tokens."""

    CREATE = "create"
    LIST = "list"
    REVOKE = "revoke"


def token(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    token_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="Of the token to revoke, as `list` shows it.", show_default=False
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="With create: how long it is good for, such as 30m, 12h or 7d.",
            metavar="TIME",
            show_default="1h",
        ),
    ] = None,
    reusable: Annotated[
        bool,
        typer.Option("--reusable", help="With create: for any number of machines, not for one."),
    ] = False,
    trust: TrustFolder = None,
) -> None:
    """Make, list and revoke the tokens that machines join a cluster with.

    Run it on the machine that serves. A token is shown once; a digest of it is kept. It says
    which cluster it is for, so a machine that joins with it can't be taken in by another. A
    running server takes up a change at once.

    **Examples**

        tandem token create
        tandem token create --expires 7d --reusable
        tandem token list
        tandem token revoke 0a1b2c3d4e
    """
    # Imported here so that `tandem token --help` answers at once.
    from cluster.trust.authority import Authority
    from cluster.trust.identity import DEFAULT_FOLDER

    if action is not Action.CREATE and (expires is not None or reusable):
        raise BadConfiguration("--expires and --reusable belong to `tandem token create`")
    if (action is Action.REVOKE) != (token_id is not None):
        raise BadConfiguration(
            "which token? `tandem token revoke ID`"
            if action is Action.REVOKE
            else f"`tandem token {action}` takes no id"
        )
    seconds = parse_time(expires or "1h")
    authority = Authority.open(trust or DEFAULT_FOLDER)
    if token_id is not None:
        authority.revoke_token(token_id)
        typer.echo(f"{token_id} is revoked; who joined with it has", err=True)
    elif action is Action.LIST:
        _list(authority)
    else:
        typer.echo(authority.create_token(seconds, reusable=reusable))
        typer.echo(
            "This is the only time it is shown. On the machine that is to join: "
            "tandem worker --join HOST:8643 --token TOKEN, where HOST is this one's address",
            err=True,
        )


def parse_time(text: str) -> float:
    """Seconds of "90s", "30m", "12h" or "7d"; raises BadConfiguration."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_DAYS * 86400:
        raise BadConfiguration(
            f"{text!r} is no time for a token: 30m, 12h or 7d, and at most {LONGEST_DAYS}d"
        )
    return seconds


def _list(authority: Authority) -> None:
    from rich.console import Console
    from rich.table import Table

    now = time.time()
    table = Table("id", "for", "until", "state", box=None, pad_edge=False)
    for entry in authority.tokens():
        until = datetime.fromtimestamp(entry.expires).astimezone()
        machines = "any number" if entry.reusable else "one machine"
        table.add_row(entry.id, machines, f"{until:%Y-%m-%d %H:%M}", entry.state(now))
    if not table.row_count:
        typer.echo("no tokens: make one with `tandem token create`", err=True)
        return
    Console(highlight=False).print(table)
