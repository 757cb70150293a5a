"""Everything that runs during `tandem serve`, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console

from api.access import OPEN_POLICY, AccessPolicy
from api.app import create_app
from api.server import server_config
from api.streams import StreamLimits
from cluster.cli.loading import LoadingBar
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import Recipe
from cluster.coordinator.local_agent import LocalAgent
from cluster.coordinator.members import Member, Membership, check_reach, dial
from cluster.coordinator.runner import Runner
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import AddressInUse, BadConfiguration
from cluster.core.view import ServedModel
from cluster.model.config import context_length, read_config
from cluster.model.digest import digest
from cluster.model.folder import model_id, resolve
from cluster.model.weights import tensor_bytes
from cluster.placement.kv import check_kv_bits
from cluster.placement.room import Engine, Room, room
from cluster.placement.shard import check_plan
from cluster.placement.weights import rank_weight_bytes
from cluster.text.tokenizer import Tokenizer
from cluster.wire.security import is_loopback, join_address, require_token

HTTP_STOP_SECONDS = 1
"""How long connections may take to end once their streams were told."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    model: str
    host: str
    port: int
    local_ranks: int
    dialled: tuple[str, ...]
    """Addresses of agents to call."""
    joining: int
    """How many workers to wait for."""
    control: tuple[str, int]
    """Where workers join, and where this machine's engines listen."""
    token: str | None
    orphan_grace: float
    limits: Limits
    parallel: str = "auto"
    """"auto", "tensor" or "pipeline"."""
    kv_bits: int = 0
    """As in LaunchSpec."""
    kv_bytes: int = 0
    """For caches on each rank; 0 for what fits."""
    pacing: Pacing = field(default_factory=Pacing)
    kv_dir: str = ""
    """As in Recipe."""
    disk_bytes: int = 0
    """As in Recipe."""
    access: AccessPolicy = OPEN_POLICY
    tls: ssl.SSLContext | None = None
    """Of the HTTP server; None for no encryption."""
    log_prompts: bool = False
    streams: StreamLimits = field(default_factory=StreamLimits)

    @property
    def world(self) -> int:
        return self.local_ranks + len(self.dialled) + self.joining


async def serve(options: Options, console: Console) -> None:
    """Serve until SIGINT or SIGTERM. Raises a SetupError when it can't start."""
    with bound(options.host, options.port) as sock:
        folder = await asyncio.to_thread(resolve, options.model)
        config = read_config(folder)
        kind = check_plan(config, options.world, options.parallel)
        check_kv_bits(config, options.kv_bits)
        coordinator = _coordinator(options, config)
        recipe = Recipe(
            model=_anywhere(options.model),
            digest=await asyncio.to_thread(digest, folder),
            incarnation=time.time_ns(),
            kv_dir=options.kv_dir,
            disk_bytes=options.disk_bytes,
            kind=kind,
            kv_bits=options.kv_bits,
        )
        stopping = _stop_signals()
        async with asyncio.TaskGroup() as tasks:
            app = create_app(
                coordinator,
                access=options.access,
                log_prompts=options.log_prompts,
                streams=options.streams,
            )
            http = HttpServer(server_config(app, stop_seconds=HTTP_STOP_SECONDS, tls=options.tls))
            serving = tasks.create_task(http.serve(sockets=[sock]), name="http")
            # Beside the engines, which take as long to start.
            loading = tasks.create_task(
                asyncio.to_thread(Tokenizer.load, folder), name="load the tokenizer"
            )
            running = tasks.create_task(
                _run(options, coordinator, recipe, folder, loading, console), name="epochs"
            )
            await asyncio.wait([stopping, running, serving], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                _say(console, "stopping")
            coordinator.close()
            http.should_exit = True
            running.cancel()


def _anywhere(model: str) -> str:
    """The model as every machine understands it: a folder by its whole path, which must be the
    same on all; a Hub id or "demo" as it is, for each to find by itself."""
    is_folder = model != "demo" and Path(model).exists()
    return str(Path(model).absolute()) if is_folder else model


def _coordinator(options: Options, config: dict[str, Any]) -> Coordinator:
    model = ServedModel(
        id=model_id(options.model),
        context=context_length(config),
        created=int(time.time()),
        demo=options.model == "demo",
    )
    return Coordinator(model, limits=options.limits, pacing=options.pacing, clock=SystemClock())


async def _run(
    options: Options,
    coordinator: Coordinator,
    recipe: Recipe,
    folder: Path,
    tokenizer: asyncio.Task[Tokenizer],
    console: Console,
) -> None:
    """Gather the members and keep an epoch running on them until cancelled."""
    async with _members(options, coordinator, console) as members:
        check_reach(members)
        for member in members:
            _say_blas(member, console)
        space = await asyncio.to_thread(
            _room, options, recipe, folder, members, coordinator.model.context
        )
        coordinator.limits = replace(
            options.limits,
            kv_tokens=space.kv_tokens,
            slot_positions=space.slot_positions,
            position_bytes=space.position_bytes,
            attended=space.attended,
        )
        longest = min(coordinator.model.context, space.kv_tokens - space.slot_positions)
        coordinator.model = replace(coordinator.model, context=longest, rank_bytes=space.rank_bytes)
        with LoadingBar(console) as bar:
            runner = Runner(coordinator, tokenizer, members, recipe, bar)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(runner.run(), name="runner")
                tasks.create_task(_say_ready(runner, bar, options, coordinator, console))
                await asyncio.wait([running])


async def _say_ready(
    runner: Runner,
    bar: LoadingBar,
    options: Options,
    coordinator: Coordinator,
    console: Console,
) -> None:
    await runner.started.wait()
    bar.close()
    scheme = "http" if options.tls is None else "https"
    url = f"{scheme}://{join_address(options.host, options.port)}"
    if coordinator.model.demo:
        _say(
            console,
            "this is the demo model: it knows a little about Tandem and can repeat words. "
            "Serve a real one with: tandem serve --model FOLDER-OR-HUB-ID",
        )
    if not is_loopback(options.host) and options.tls is None:
        _say(
            console,
            "keys, questions and answers travel readable to all on the way: --tls-cert and "
            "--tls-key encrypt them",
        )
    ranks = "1 rank" if options.world == 1 else f"{options.world} ranks"
    _say(console, f"serving {coordinator.model.id} on {ranks} at {url}/v1")


def _say_blas(member: Member, console: Console) -> None:
    blas = member.description.blas
    line = f"matrix library on {member.description.hostname}: {blas.name}"
    _say(console, line if blas.fast else f"{line} (slow): {blas.advice}")


def _room(
    options: Options, recipe: Recipe, folder: Path, members: list[Member], context: int
) -> Room:
    """What caches may hold on the rank with the least room beside its weights."""
    config = read_config(folder)
    engine = Engine(
        config=config,
        world=options.world,
        kind=recipe.kind,
        kv_bits=options.kv_bits,
        weight_bytes=rank_weight_bytes(config, tensor_bytes(folder), options.world, recipe.kind),
        usable_bytes=min(m.description.usable_bytes // m.ranks for m in members),
        sequences=options.limits.sequences,
        context=context,
        cores=min(m.description.cores // m.ranks for m in members) or 1,
        fused=all(m.description.blas.name in ("Metal", "CUDA") for m in members),
    )
    return room(engine, options.limits.kv_tokens, options.kv_bytes)


@asynccontextmanager
async def _members(
    options: Options, coordinator: Coordinator, console: Console
) -> AsyncIterator[list[Member]]:
    """This machine's agent first, then those we call, then those that join."""
    host, port = options.control
    async with AsyncExitStack() as stack:

        async def add(address: str, ranks: int = 1) -> None:
            members.append(await stack.enter_async_context(dial(address, options.token, ranks)))

        members: list[Member] = []
        if options.local_ranks:
            require_token(host, options.token)
            agent = LocalAgent.run(host, options.token, options.orphan_grace)
            await add(await stack.enter_async_context(agent), options.local_ranks)
        for address in options.dialled:
            await add(address)
        if options.joining:
            coordinator.waiting_for(f"{options.joining} workers to join")
            membership = await stack.enter_async_context(Membership.open(host, port, options.token))
            _say(
                console,
                f"waiting for {options.joining} to run: "
                f"tandem worker --join {join_address(host, port)}",
            )
            for address in await membership.wait(options.joining):
                await add(address)
                _say(console, f"{members[-1].description.hostname} joined")
        yield members


def _say(console: Console, line: str) -> None:
    """One line, as it is: never wrapped, never coloured by what it says."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: signals are ours."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket that has its address and does not listen yet: clients are turned away, and
    not kept waiting, until the server runs. Raises AddressInUse, or BadConfiguration for a
    strange host."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise BadConfiguration(f"{host} is no known host: {error.strerror}") from error
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            raise AddressInUse(
                f"can't listen on {join_address(host, port)} ({error.strerror}): "
                "choose another with --port"
            ) from error
        yield sock


def _stop_signals() -> asyncio.Future[None]:
    """Done at the first SIGINT or SIGTERM; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if stopping.done():
            raise KeyboardInterrupt
        stopping.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return stopping
