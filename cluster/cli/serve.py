"""`tandem serve`: the options, and what they mean together."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import TokenFile
from cluster.core.config import Limits
from cluster.core.errors import BadConfiguration

CONTROL_PORT = 8643


def serve(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Model to serve: a folder in mlx format, a Hugging Face id such as "
            "mlx-community/Qwen3-4B-4bit, or `demo`, the tiny one that ships with Tandem.",
        ),
    ] = "demo",
    host: Annotated[
        str, typer.Option(help="Address for HTTP clients.", metavar="ADDR")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port for HTTP clients.", min=1, max=65535)] = 8642,
    local_ranks: Annotated[
        int,
        typer.Option(
            help="Engines on this machine. On a Mac 1 is best; on Linux one per core group "
            "or GPU; 0 computes on the other machines only.",
            min=0,
            max=64,
        ),
    ] = 1,
    nodes: Annotated[
        str,
        typer.Option(
            help="Other machines: a number waits until as many have joined with "
            "`tandem worker --join`; addresses of running workers are called.",
            metavar="N|HOST:PORT,...",
        ),
    ] = "",
    control: Annotated[
        str,
        typer.Option(
            help="Where workers join, and where this machine's engines listen for the others. "
            f"Without it: the address of --host, port {CONTROL_PORT}; loopback without --nodes.",
            metavar="HOST[:PORT]",
        ),
    ] = "",
    token_file: TokenFile = None,
    sequences: Annotated[
        int, typer.Option(help="Requests computed at the same time.", min=1, max=1024)
    ] = 16,
    queue: Annotated[
        int,
        typer.Option(help="Requests that may wait; one more is answered with 429.", min=0),
    ] = 128,
    orphan_grace: Annotated[
        float,
        typer.Option(
            help="Seconds until this machine's engines end when the server has died without a "
            "word.",
            min=0,
            max=3600,
        ),
    ] = 10.0,
) -> None:
    """Serve a model to OpenAI clients, on this machine or several.

    Starts an engine per rank, loads the model, and answers at http://HOST:PORT/v1 until it is
    stopped with Ctrl-C.

    **Examples**

        tandem serve
        tandem serve --model mlx-community/Qwen3-4B-4bit
        tandem serve --local-ranks 2
        tandem serve --nodes 1 --host 192.168.1.10
    """
    # Imported here so that `tandem serve --help` answers at once.
    import asyncio

    from rich.console import Console

    from cluster.cli import serving
    from cluster.wire.security import read_token

    dialled, joining = parse_nodes(nodes)
    if local_ranks + len(dialled) + joining == 0:
        raise BadConfiguration("nobody would compute: give --local-ranks or --nodes")
    options = serving.Options(
        model=model,
        host=host,
        port=port,
        local_ranks=local_ranks,
        dialled=dialled,
        joining=joining,
        control=control_address(control, host, alone=not nodes.strip()),
        token=read_token(token_file),
        orphan_grace=orphan_grace,
        limits=Limits(sequences=sequences, queue=queue),
    )
    serving.set_up_log()
    asyncio.run(serving.serve(options, Console(stderr=True)))


def control_address(control: str, host: str, *, alone: bool) -> tuple[str, int]:
    """Where workers join and this machine's engines listen: what --control says, else the
    address of --host, or loopback when there are no other machines.

    Raises BadConfiguration for a wildcard, which other machines could not be told.
    """
    from cluster.wire.security import is_wildcard, split_address

    where = control or ("127.0.0.1" if alone else host)
    address, port = split_address(where, CONTROL_PORT)
    if is_wildcard(address):
        raise BadConfiguration(
            f"other machines need one address of this one, and {address} stands for all: "
            "give it with --control ADDRESS"
        )
    return address, port


def parse_nodes(text: str) -> tuple[tuple[str, ...], int]:
    """(addresses to call, number of workers to wait for) of the --nodes option.

    Raises BadConfiguration when it is neither a number nor a list of HOST:PORT.
    """
    text = text.strip()
    if not text:
        return (), 0
    if text.isdecimal():
        return (), int(text)
    addresses = tuple(part.strip() for part in text.split(","))
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise BadConfiguration(
                f"--nodes {text}: give a number of workers to wait for, or HOST:PORT,HOST:PORT"
            )
    return addresses, 0
