"""`tandem node`: the machines that have a certificate of the cluster."""

from __future__ import annotations

import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import TrustFolder
from cluster.core.errors import BadConfiguration

if TYPE_CHECKING:
    from cluster.trust.authority import Authority


class Action(StrEnum):
    """What to do with machines."""

    LIST = "list"
    REVOKE = "revoke"


def node(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    node_id: Annotated[
        str | None,
        typer.Argument(metavar="[NODE]", help="To revoke, as `list` shows it.", show_default=False),
    ] = None,
    trust: TrustFolder = None,
) -> None:
    """List the machines of a cluster, and revoke one.

    Run it on the machine that serves. A revoked machine is refused for good; a running server
    knows within a second. It can join again with a new token only, as another.

    **Examples**

        tandem node list
        tandem node revoke studio-2-5f1c09ab
    """
    # Imported here so that `tandem node --help` answers at once.
    from cluster.trust.authority import Authority
    from cluster.trust.identity import DEFAULT_FOLDER

    if (action is Action.REVOKE) != (node_id is not None):
        raise BadConfiguration(
            "which machine? `tandem node revoke NODE`; `tandem node list` names them"
            if action is Action.REVOKE
            else "`tandem node list` takes no name"
        )
    authority = Authority.open(trust or DEFAULT_FOLDER)
    if node_id is None:
        _list(authority)
        return
    authority.revoke_node(node_id)
    typer.echo(f"{node_id} is revoked; a running server takes up to a second to know", err=True)


def _list(authority: Authority) -> None:
    from rich.console import Console
    from rich.table import Table

    now = time.time()
    table = Table("machine", "joined", "certificate until", "state", box=None, pad_edge=False)
    for entry in authority.nodes():
        joined, until = (
            f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"
            for at in (entry.joined, entry.expires)
        )
        table.add_row(entry.id, joined, until, entry.state(now))
    if not table.row_count:
        typer.echo("no machine has joined: make a token with `tandem token create`", err=True)
        return
    Console(highlight=False).print(table)
