"""`tandem serve`: the options, and what they mean together."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.access import CacheScope, access_policy
from cluster.cli.log import LogFormat, LogLevel, set_up_log
from cluster.cli.options import KV_PRIVACY, KeyFile, TrustFolder
from cluster.core.config import Limits, Pacing
from cluster.core.errors import BadConfiguration

CONTROL_PORT = 8643
DEMO = "demo"
DISK_GB = 20.0
"""What prefixes may take on the disk of each machine, unless told otherwise."""


class Parallel(StrEnum):
    """The choices of --parallel."""

    AUTO = "auto"
    TENSOR = "tensor"
    PIPELINE = "pipeline"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model to serve: a folder in mlx format, a Hugging Face id such as "
            "mlx-community/Qwen3-4B-4bit, or `demo`, the tiny one that ships with Tandem. Can be "
            "repeated: the first is loaded at the start and answers requests that name none, "
            "others are loaded when they are asked for.",
            show_default=DEMO,
        ),
    ] = None,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of models: each folder in it with config.json and weights may be asked "
            "for by its name, and is loaded then. Read at the start only. Without --model, the "
            "first by name is the first model.",
            metavar="DIR",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address for HTTP clients.", metavar="ADDR")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port for HTTP clients.", min=1, max=65535)] = 8642,
    local_ranks: Annotated[
        int,
        typer.Option(
            help="Engines on this machine. On a Mac 1 is best; on Linux one per core group "
            "or GPU; 0 computes on the other machines only, which get the model from this one.",
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
    replicas: Annotated[
        int,
        typer.Option(
            help="Groups of each model, on machines (or ranks of this one) of their own: for many "
            "requests at a time. When one is lost, its requests go on in another.",
            min=1,
            max=64,
        ),
    ] = 1,
    keep_alive: Annotated[
        str,
        typer.Option(
            help="How long a model that was loaded for a request stays after the last one: "
            "seconds, or a time such as 90s, 5m, 1h. 0: no longer than it is used; -1: until "
            "another needs its room. The first one stays so in any case.",
            metavar="TIME",
        ),
    ] = "5m",
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that never makes room for another, once it is loaded: as --model names "
            "it, or its name in --models-dir. Can be repeated.",
            metavar="MODEL",
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(help="Requests computed at the same time.", min=1, max=1024)
    ] = 16,
    queue: Annotated[
        int,
        typer.Option(help="Requests that may wait; one more is answered with 429.", min=0),
    ] = 128,
    parallel: Annotated[
        Parallel,
        typer.Option(
            help="How several ranks share the model: every layer split over all of them "
            "(tensor), or each with layers of its own (pipeline). auto: tensor where the model "
            "can be split so."
        ),
    ] = Parallel.AUTO,
    draft_model: Annotated[
        str,
        typer.Option(
            help="Smaller model with the same vocabulary, named as --model is: it guesses the "
            "next tokens, and the model checks several at once. Text stays the same; where "
            "guesses are seldom right, it is left alone. It takes memory of the first rank.",
            metavar="MODEL",
        ),
    ] = "",
    kv_bits: Annotated[
        int | None,
        typer.Option(
            help="Bits of a value in the KV cache, 8 or 4: longer contexts in the same memory, "
            "and text that differs a little. Without it: the model's own type.",
            metavar="8|4",
        ),
    ] = None,
    kv_gb: Annotated[
        float | None,
        typer.Option(
            help="Memory for the KV cache on each rank, in GiB. Without it: most of what is left "
            "beside the weights.",
            min=0.001,
        ),
    ] = None,
    prefill_share: Annotated[
        float,
        typer.Option(
            help="Share of the time that prompts get while answers are being generated.",
            min=0.05,
            max=0.95,
        ),
    ] = 0.5,
    kv_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which every machine keeps the prefixes it has computed, so that they "
            f"survive a restart; made if missing. {KV_PRIVACY} Without it: nothing is kept.",
            metavar="DIR",
        ),
    ] = None,
    kv_disk_gb: Annotated[
        float | None,
        typer.Option(
            help="What that folder may hold, in GiB, on each machine.",
            min=0.001,
            show_default=f"{DISK_GB:g}",
        ),
    ] = None,
    stream_buffer_mb: Annotated[
        float,
        typer.Option(
            help="What is kept of an answer that can be followed again (X-Conversation-Id), in "
            "MiB: its newest part.",
            min=0.001,
            max=1024,
        ),
    ] = 4.0,
    stream_keep: Annotated[
        float,
        typer.Option(help="Seconds that it is kept after its end.", min=0, max=86400),
    ] = 300.0,
    stream_lease: Annotated[
        float,
        typer.Option(
            help="Seconds that it goes on while nobody follows it, unless the request says "
            "otherwise (X-Stream-Lease).",
            min=0,
            max=3600,
        ),
    ] = 120.0,
    orphan_grace: Annotated[
        float,
        typer.Option(
            help="Seconds until this machine's engines end when the server has died without a "
            "word.",
            min=0,
            max=3600,
        ),
    ] = 10.0,
    recovery_wait: Annotated[
        float,
        typer.Option(
            help="Seconds that requests wait for other engines when theirs are lost; then they get "
            "503.",
            min=0,
            max=3600,
        ),
    ] = 120.0,
    key_file: KeyFile = None,
    require_key: Annotated[
        bool,
        typer.Option(
            "--require-key",
            help="Ask for an API key on loopback too; beyond it one is always needed.",
            rich_help_panel="Access",
        ),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that clients call this server by. Can be repeated.",
            metavar="NAME",
            rich_help_panel="Access",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            help="Web pages that may use this server, such as http://localhost:3000. Can be "
            "repeated.",
            metavar="ORIGIN",
            rich_help_panel="Access",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="Certificate chain (PEM): serve https.", metavar="PATH", rich_help_panel="Access"
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            help="Its private key, unless that is in the same file.",
            metavar="PATH",
            rich_help_panel="Access",
        ),
    ] = None,
    trust: TrustFolder = None,
    cache_scope: Annotated[
        CacheScope,
        typer.Option(
            help="Whether keys share the prefixes of their prompts. Those who do can tell what "
            "others have asked by how fast an answer comes.",
            rich_help_panel="Access",
        ),
    ] = CacheScope.KEY,
    trace: Annotated[
        int,
        typer.Option(
            help="Trace every request, and keep the traces of the last N for `tandem trace`. "
            "Without it: only requests whose client asks for it (traceparent) or that "
            "OpenTelemetry samples (OTEL_EXPORTER_OTLP_ENDPOINT).",
            metavar="N",
            min=0,
            max=1024,
            rich_help_panel="Log",
        ),
    ] = 0,
    log_level: Annotated[
        LogLevel,
        typer.Option(help="info has a line for every request.", rich_help_panel="Log"),
    ] = LogLevel.WARNING,
    log_format: Annotated[
        LogFormat, typer.Option(help="Form of a line.", rich_help_panel="Log")
    ] = LogFormat.TEXT,
    log_prompts: Annotated[
        bool,
        typer.Option(
            "--log-prompts",
            help="Log what is asked too, at info: the bodies of all requests.",
            rich_help_panel="Log",
        ),
    ] = False,
) -> None:
    """Serve a model to OpenAI clients, on this machine or several.

    Starts an engine per rank, loads the first model, and answers at http://HOST:PORT/v1 until it is
    stopped with Ctrl-C.

    **Examples**

        tandem serve
        tandem serve --model mlx-community/Qwen3-4B-4bit
        tandem serve --model ./Qwen3-32B-4bit --draft-model ./Qwen3-0.6B-4bit
        tandem serve --model ./Qwen3-32B-4bit --model ./gpt-oss-20b --kv-gb 8
        tandem serve --models-dir ~/models --kv-gb 8
        tandem serve --local-ranks 2
        tandem key add laptop && tandem serve --host 192.168.1.10
        tandem token create && tandem serve --nodes 1 --host 192.168.1.10
    """
    # Imported here so that `tandem serve --help` answers at once.
    import asyncio

    from rich.console import Console

    from api.otlp import otlp_exporter
    from api.streams import StreamLimits
    from api.tls import load_tls
    from cluster.cli import serving
    from cluster.cli.models import keep_alive_seconds, models_in
    from cluster.model.folder import model_id

    dialled, joining = parse_nodes(nodes)
    if local_ranks + len(dialled) + joining == 0:
        raise BadConfiguration("nobody would compute: give --local-ranks or --nodes")
    if replicas > local_ranks + len(dialled) + joining:
        raise BadConfiguration(
            f"--replicas {replicas}: each group needs a rank of its own, and there are "
            f"{local_ranks + len(dialled) + joining} (--local-ranks, --nodes)"
        )
    if log_prompts and log_level in (LogLevel.WARNING, LogLevel.ERROR):
        raise BadConfiguration("--log-prompts writes at info: give --log-level info too")
    control_at = control_address(control, host, alone=not nodes.strip())
    keep_in, disk_bytes = disk_tier(kv_dir, kv_disk_gb)
    found = models_in(models_dir) if models_dir is not None else ()
    models = tuple(model or (() if found else (DEMO,)))
    options = serving.Options(
        models=models,
        found=found,
        host=host,
        port=port,
        local_ranks=local_ranks,
        dialled=dialled,
        joining=joining,
        control=control_at,
        trust=trust_folder(trust, control_at[0], dialled),
        orphan_grace=orphan_grace,
        parallel=parallel.value,
        draft_model=draft_model,
        kv_bits=kv_bits or 0,
        kv_bytes=int((kv_gb or 0) * 2**30),
        pacing=Pacing(prefill_share=prefill_share),
        kv_dir=keep_in,
        disk_bytes=disk_bytes,
        limits=Limits(sequences=sequences, queue=queue, recovery_seconds=recovery_wait),
        access=access_policy(
            host,
            key_file=key_file,
            require_key=require_key,
            allow_hosts=allow_host or [],
            origins=cors or [],
            cache_scope=cache_scope,
        ),
        tls=load_tls(tls_cert, tls_key),
        log_prompts=log_prompts,
        replicas=replicas,
        keep_alive=keep_alive_seconds(keep_alive),
        pinned=tuple(model_id(each) if each in models else each for each in pin or ()),
        trace=trace,
        exporter=otlp_exporter(os.environ),
        streams=StreamLimits(
            buffer_bytes=int(stream_buffer_mb * 2**20),
            keep_seconds=stream_keep,
            lease_seconds=stream_lease,
        ),
    )
    set_up_log(log_level, log_format)
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


def trust_folder(given: Path | None, host: str, dialled: tuple[str, ...]) -> Path | None:
    """Where the cluster's authority is kept: the folder that was given, else the default one when
    an address is beyond loopback. None for a cluster that needs none."""
    from cluster.trust.identity import DEFAULT_FOLDER
    from cluster.wire.security import is_loopback, split_address

    hosts = [host, *(split_address(address)[0] for address in dialled)]
    alone = all(is_loopback(host) for host in hosts)
    return given or (None if alone else DEFAULT_FOLDER)


def disk_tier(folder: Path | None, gigabytes: float | None) -> tuple[str, int]:
    """The folder as every machine understands it and what it may hold, in bytes; empty and 0
    for nothing on disk. Raises BadConfiguration for a size without a folder."""
    if folder is None:
        if gigabytes is not None:
            raise BadConfiguration("--kv-disk-gb needs a folder: give --kv-dir")
        return "", 0
    whole = str(folder.expanduser().absolute())
    return whole, int((DISK_GB if gigabytes is None else gigabytes) * 2**30)


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
