"""`tandem report`: one file for a bug report, without secrets."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url
from cluster.core.errors import BadConfiguration

if TYPE_CHECKING:
    from cluster.cli.evidence import Item

CONFIGURATION = Path("~/.config/tandem")


def report(
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            help="Log of a server or worker to take the end of. Can be repeated. Those of the "
            "services in deploy are found by themselves.",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write. Without it: tandem-report-TIME.tar.gz in this folder.",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print all of it instead, and write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")] = False,
) -> None:
    """Collect what a bug report needs, without secrets, in one file.

    Holds what `tandem version` and `tandem doctor` say, settings, what a running server answers
    at /cluster, /health and /metrics, and the end of logs. API keys, tokens, certificates, names
    of people and machines, and what was asked are taken out; addresses in your network stay.
    Shows what it holds, and asks before it writes. Nothing is sent anywhere.

    **Examples**

        tandem report
        tandem report --log serve.log --output report.tar.gz --yes
        tandem report --show | less
    """
    from cluster.cli.evidence import gather
    from cluster.core.redact import removed

    items = gather(url, key, ca, CONFIGURATION.expanduser(), log or [])
    if show:
        for item in items:
            typer.echo(f"==== {item.name} ({item.about})\n{item.text}")
        return
    width = max(len(item.name) for item in items)
    for item in items:
        typer.echo(f"{item.name:{width}}  {len(item.text.encode()):>8} bytes  {item.about}")
    taken = ", ".join(f"{kind} {n} times" for kind, n in removed(i.text for i in items).items())
    typer.echo(f"Taken out: {taken or 'nothing'}. To read it all: tandem report --show")
    path = output or Path(f"tandem-report-{datetime.now().astimezone():%Y%m%d-%H%M%S}.tar.gz")
    if not yes:
        if not sys.stdin.isatty():
            raise BadConfiguration("there is no terminal to ask in: give --yes, or --show to read")
        typer.confirm(f"Write {path}?", default=True, abort=True)
    write(path, items)
    typer.echo(f"{path}: read it before you send it (tar -xzf)", err=True)


def write(path: Path, items: Sequence[Item]) -> None:
    """A new .tar.gz which only its owner can read, and whose entries name no user.

    Raises BadConfiguration when it exists already or can't be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for item in items:
                content = item.text.encode()
                entry = tarfile.TarInfo(f"tandem-report/{item.name}")  # of nobody, of no time
                entry.size, entry.mode = len(content), 0o600
                tar.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise BadConfiguration(f"can't write {path}: {error.strerror}") from error
