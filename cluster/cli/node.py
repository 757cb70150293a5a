"""`tandem node`: the machines that have a certificate of the cluster."""

from __future__ import annotations

import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import TrustFolder
from cluster.cli.server import (
    DEFAULT_URL,
    ApiKey,
    Url,
    complaint,
    connect,
    get,
    readable_errors,
)
from cluster.cli.server import Authority as CaFile
from cluster.core.errors import BadConfiguration, SetupError

DRAIN_SECONDS = 120.0
"""For the engines of a machine to end."""

if TYPE_CHECKING:
    import httpx

    from cluster.trust.authority import Authority


class Action(StrEnum):
    """What to do with machines."""

    LIST = "list"
    REVOKE = "revoke"
    DRAIN = "drain"
    USE = "use"


def node(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    node_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[NODE]",
            help="Which machine: its id as `list` shows it, for drain and use also its host name.",
            show_default=False,
        ),
    ] = None,
    trust: TrustFolder = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: CaFile = None,
) -> None:
    """List the machines of a cluster, revoke one, or free one to be unplugged.

    Run it on the machine that serves. A revoked machine is refused for good; a running server
    knows within a second. It can join again with a new token only, as another. A drained one is
    left at once; answers go on on the others, and `use` takes it in again.

    **Examples**

        tandem node list
        tandem node revoke studio-2-5f1c09ab
        tandem node drain studio-2
        tandem node use studio-2
    """
    # Imported here so that `tandem node --help` answers at once.
    from cluster.trust.authority import Authority
    from cluster.trust.identity import DEFAULT_FOLDER

    if (action is not Action.LIST) != (node_id is not None):
        raise BadConfiguration(
            "`tandem node list` takes no name"
            if action is Action.LIST
            else f"which machine? `tandem node {action} NODE`; `tandem status` names them"
        )
    if node_id is not None and action in (Action.DRAIN, Action.USE):
        with connect(url, key, ca) as client:
            _drain(client, node_id, undo=action is Action.USE)
        return
    authority = Authority.open(trust or DEFAULT_FOLDER)
    if node_id is None:
        _list(authority)
        return
    authority.revoke_node(node_id)
    typer.echo(f"{node_id} is revoked; a running server takes up to a second to know", err=True)


def _drain(client: httpx.Client, name: str, *, undo: bool) -> None:
    """Say what is wanted, and return when it is so."""
    with readable_errors(client):
        response = client.post("/cluster/drain", json={"node": name, "undo": undo})
    if response.is_error:
        raise SetupError(complaint(response))
    node = response.json()
    if undo:
        typer.echo(f"{node['hostname']} is taken in, if it makes the group larger", err=True)
        return
    typer.echo(f"moving work off {node['hostname']}", err=True)
    end = time.monotonic() + DRAIN_SECONDS
    while True:
        members = get(client, "/cluster")["members"]
        left = sum(m["ranks"] for m in members if m["node_id"] == node["node_id"])
        if not left:
            break
        if time.monotonic() > end:
            raise SetupError(f"{left} engines still run on {node['hostname']}: see tandem status")
        time.sleep(0.2)
    typer.echo(f"{node['hostname']} is free: it is safe to unplug")


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
