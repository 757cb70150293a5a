"""`tandem worker`: this machine's node agent, for a server that runs elsewhere."""

from __future__ import annotations

import functools
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import KV_PRIVACY, TrustFolder
from cluster.core.errors import BadConfiguration


def worker(
    join: Annotated[
        str | None,
        typer.Option(
            help="The server to join, and the port on which it waits for workers (8643 unless "
            "it was told otherwise). Without it, a machine with a token or a certificate looks "
            "for its server on the network (mDNS); another waits for a server to call it.",
            metavar="HOST:PORT",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine to listen on, and at which the others reach it. "
            "Without it: the one that leads to the server.",
            metavar="ADDR",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8644,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TANDEM_JOIN_TOKEN",
            help="Join token that `tandem token create` printed on the server. It is needed once: "
            "the machine gets a certificate for it, keeps that, and renews it by itself.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the join token, where others could see a command line.",
            metavar="PATH",
        ),
    ] = None,
    trust: TrustFolder = None,
    kv_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the prefixes that the server has this machine keep on disk. "
            f"{KV_PRIVACY} Without it: the one that the server was given.",
            metavar="DIR",
        ),
    ] = None,
    orphan_grace: Annotated[
        float,
        typer.Option(
            help="Seconds to keep the model in memory after the server has gone, in case it "
            "comes back.",
            min=0,
        ),
    ] = 600.0,
) -> None:
    """Lend this machine to a server that runs on another one.

    The worker tells the server about this machine, starts one engine when it is asked to, and
    ends it when the server is done. Stop it with Ctrl-C.

    **Example:** the first machine serves and prints a token; the second one joins with it.

        tandem token create
        tandem serve --nodes 1 --host 192.168.1.10
        tandem worker --join 192.168.1.10:8643 --token tdj1_...
    """
    # Imported here so that `tandem worker --help` answers at once.
    import anyio

    from cluster.node.worker import run_worker

    anyio.run(
        until_signal,
        functools.partial(
            run_worker,
            join=join,
            host=host,
            port=port,
            token=token if token_file is None else read_token(token_file),
            trust=trust,
            orphan_grace=orphan_grace,
            kv_dir="" if kv_dir is None else str(kv_dir.expanduser().absolute()),
            say=functools.partial(typer.echo, err=True),
        ),
    )


def read_token(file: Path) -> str:
    """The token in a file; raises BadConfiguration when it can't be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"can't read the join token from {file}: {error}") from error


async def until_signal(run: Callable[[], Awaitable[None]]) -> None:
    """Run until it ends by itself, or cancel it at the first SIGINT or SIGTERM."""
    import anyio

    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    typer.echo("stopping", err=True)
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(listen, name="signals")
        await run()
        tasks.cancel_scope.cancel()
