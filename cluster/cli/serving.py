"""Everything that runs during `tandem serve`, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvicorn
from rich.console import Console

from api.access import OPEN_POLICY, AccessPolicy
from api.app import create_app
from api.server import server_config
from api.streams import StreamLimits
from api.traces import Exporter
from cluster.cli.drafting import DraftFolder
from cluster.cli.loading import LoadingBar
from cluster.cli.models import KEEP_ALIVE, read_offers
from cluster.coordinator.fleet import Fleet
from cluster.coordinator.forming import Forming
from cluster.coordinator.local_agent import LocalAgent
from cluster.coordinator.members import Member, Members
from cluster.coordinator.paths import Paths
from cluster.coordinator.trust import Trust
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import AddressInUse, BadConfiguration
from cluster.core.view import ServedModel
from cluster.discovery.advert import Advert, cluster_mark
from cluster.discovery.mdns import advertise
from cluster.model.config import read_config
from cluster.model.weights import tensor_bytes
from cluster.node.links import read_addresses
from cluster.placement.fit import Model
from cluster.placement.group import Draft, Terms
from cluster.trust.certificate import fingerprint
from cluster.wire.security import is_loopback, join_address, split_address

HTTP_STOP_SECONDS = 1
"""How long connections may take to end once their streams were told."""


NAMED = 10
"""Models that are listed at the start, at most."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    models: tuple[str, ...]
    """The first is loaded at the start."""
    found: tuple[str, ...]
    """Models of a folder, behind those."""
    host: str
    port: int
    local_ranks: int
    dialled: tuple[str, ...]
    """Addresses of agents to call."""
    joining: int
    """How many workers to wait for."""
    control: tuple[str, int]
    """Where workers join, and where this machine's engines listen."""
    trust: Path | None
    """Folder of the cluster's authority; None on loopback, where there need be none."""
    orphan_grace: float
    limits: Limits
    parallel: str = "auto"
    """"auto", "tensor" or "pipeline"."""
    kv_bits: int = 0
    """As in LaunchSpec."""
    kv_bytes: int = 0
    """For caches on each rank; 0 for what fits."""
    pacing: Pacing = field(default_factory=Pacing)
    draft_model: str = ""
    """As `model`, of the one that drafts; empty for none."""
    kv_dir: str = ""
    """As in Recipe."""
    disk_bytes: int = 0
    """As in Recipe."""
    access: AccessPolicy = OPEN_POLICY
    tls: ssl.SSLContext | None = None
    """Of the HTTP server; None for no encryption."""
    log_prompts: bool = False
    trace: int = 0
    """As in Traces, as is the next."""
    exporter: Exporter | None = None
    streams: StreamLimits = field(default_factory=StreamLimits)
    replicas: int = 1
    """Groups of each model."""
    keep_alive: float | None = KEEP_ALIVE
    """As in Fleet."""
    pinned: tuple[str, ...] = ()
    """Names of models."""

    @property
    def places(self) -> int:
        """Ranks that there are to be at the start."""
        return self.local_ranks + len(self.dialled) + self.joining

    @property
    def world(self) -> int:
        """Most ranks of one group."""
        return -(-self.places // self.replicas)


async def serve(options: Options, console: Console) -> None:
    """Serve until SIGINT or SIGTERM. Raises a SetupError when it can't start."""
    with bound(options.host, options.port) as sock:
        offers = await asyncio.to_thread(
            read_offers,
            options.models,
            partial(_forming, options),
            found=options.found,
            tell=partial(_say, console),
            draft_model=options.draft_model,
            kv_dir=options.kv_dir,
            disk_bytes=options.disk_bytes,
            kv_bits=options.kv_bits,
            world=options.world,
            parallel=options.parallel,
        )
        fleet = Fleet(
            offers,
            limits=options.limits,
            pacing=options.pacing,
            clock=SystemClock(),
            replicas=options.replicas,
            keep_alive=options.keep_alive,
            pinned=options.pinned,
        )
        stopping = _stop_signals()
        async with asyncio.TaskGroup() as tasks:
            app = create_app(
                fleet,
                access=options.access,
                log_prompts=options.log_prompts,
                streams=options.streams,
                trace=options.trace,
                exporter=options.exporter,
            )
            http = HttpServer(server_config(app, stop_seconds=HTTP_STOP_SECONDS, tls=options.tls))
            serving = tasks.create_task(http.serve(sockets=[sock]), name="http")
            running = tasks.create_task(_run(options, fleet, console), name="models")
            await asyncio.wait([stopping, running, serving], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                _say(console, "stopping")
            fleet.close()
            http.should_exit = True
            running.cancel()


async def _run(options: Options, fleet: Fleet, console: Console) -> None:
    """Gather the members and keep models running until cancelled."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        trust = None
        if options.trust is not None:
            trust = await stack.enter_async_context(Trust.open(options.trust))
        members = Members(fleet.clock, trust, tasks)
        await _gather(options, members, fleet, console, stack)
        bar = stack.enter_context(LoadingBar(console))
        tasks.create_task(_say_ready(fleet, bar, options, console))
        await fleet.run(members, bar)


async def _say_ready(fleet: Fleet, bar: LoadingBar, options: Options, console: Console) -> None:
    await fleet.started.wait()
    bar.close()
    scheme = "http" if options.tls is None else "https"
    url = f"{scheme}://{join_address(options.host, options.port)}"
    model = fleet.default.model
    if model.demo:
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
    ranks = "1 rank" if options.places == 1 else f"{options.places} ranks"
    groups = f", {options.replicas} groups," if options.replicas > 1 else ""
    drafts = f", drafts by {model.draft}," if model.draft else ""
    _say(console, f"serving {model.id}{drafts}{groups} on {ranks} at {url}/v1")
    others = [served.id for served in fleet if served is not fleet.default]
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        _say(console, f"loaded when asked for: {', '.join(others[:NAMED])}{more}")


def _say_blas(member: Member, console: Console) -> None:
    blas = member.description.blas
    line = f"matrix library on {member.description.hostname}: {blas.name}"
    _say(console, line if blas.fast else f"{line} (slow): {blas.advice}")


def _forming(
    options: Options,
    model: ServedModel,
    folder: Path,
    draft: DraftFolder | None,
) -> Callable[[Paths], Forming]:
    """Reads how large the model is."""
    limits = options.limits
    terms = Terms(
        context=model.context,
        sequences=limits.sequences,
        kv_tokens=limits.kv_tokens,
        kv_bytes=options.kv_bytes,
        kv_bits=options.kv_bits,
        parallel=options.parallel,
        draft=Draft(draft.config, draft.weight_bytes) if draft else None,
    )
    whole = Model(read_config(folder), tensor_bytes(folder))
    return lambda paths: Forming(whole, terms, model, limits, paths)


async def _gather(
    options: Options,
    members: Members,
    fleet: Fleet,
    console: Console,
    stack: AsyncExitStack,
) -> None:
    """This machine's agent, which without ranks only gives weights; those we call, and as many
    as are to join."""
    host, port = options.control
    if options.local_ranks or _reached(host, options.dialled):
        identity = members.trust.local if members.trust is not None else None
        agent = LocalAgent.run(options.port, host, identity, options.orphan_grace)
        address = await stack.enter_async_context(agent)
        member = await members.call(address, options.local_ranks)
        if options.local_ranks:
            _say_blas(member, console)
    else:
        _say(
            console,
            f"machines without the model can't get it from this one, which is {host} to itself: "
            "give its address on their network with --control",
        )
    for address in options.dialled:
        _say_blas(await members.call(address), console)
    if options.joining or (options.dialled and members.trust is not None):  # those renew there
        await stack.enter_async_context(members.listen(host, port))
        await _advertise(members, host, port, console, stack)
    if not options.joining:
        return
    fleet.waiting_for(f"{options.joining} workers to join")
    command = f"tandem worker --join {join_address(host, port)}"
    if members.trust is not None:
        command += " --token TOKEN (`tandem token create` prints one)"
    _say(console, f"waiting for {options.joining} to run: {command}")
    here, seen = len(members.roster), members.changes.count
    wanted = here + options.joining
    while here < wanted:
        await members.changes.beyond(seen)
        seen = members.changes.count
        for node in list(members.roster)[here:]:
            (member,) = members.of([node])
            _say(console, f"{member.description.hostname} joined")
            _say_blas(member, console)
        here = max(here, len(members.roster))


def _reached(host: str, dialled: Sequence[str]) -> bool:
    """Whether the machines that are called can reach our own agent on `host`."""
    hosts = [host, *(split_address(address)[0] for address in dialled)]
    return len({is_loopback(each) for each in hosts}) == 1


async def _advertise(
    members: Members, host: str, port: int, console: Console, stack: AsyncExitStack
) -> None:
    """Let workers of this cluster find the way by themselves, where the network carries it."""
    if members.trust is None:
        return
    authority = members.trust.authority
    advert = Advert(
        role="coordinator",
        cluster=members.cluster,
        cluster_id=cluster_mark(fingerprint(authority.certificate)),
        node_id=authority.cluster,
        incarnation=time.time_ns(),
        port=port,
        addresses=tuple(a for a in read_addresses() if a.ip == host),
    )
    try:
        await stack.enter_async_context(advertise(advert, [host]))
    except BadConfiguration as error:
        _say(console, f"workers need --join {join_address(host, port)}: {error}")


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
