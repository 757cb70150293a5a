"""`tandem worker`: the agent of another machine, made known to a coordinator."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import anyio

from cluster.core.errors import BadConfiguration, Busy, NodeUnreachable
from cluster.node.agent import Agent
from cluster.node.engine_process import ENGINE_COMMAND, Say
from cluster.node.enroll import keep_renewed, own_identity
from cluster.node.seek import seek
from cluster.trust.identity import IdentityFile
from cluster.wire import registry
from cluster.wire.node_server import NodeServer
from cluster.wire.security import is_wildcard, split_address

FIRST_RETRY, LAST_RETRY = 0.5, 5.0
"""Seconds between attempts to join: doubled from the first to the last."""


async def run_worker(
    join: str | None,
    host: str | None,
    port: int,
    token: str | None,
    orphan_grace: float,
    say: Say,
    *,
    trust: Path | None = None,
    kv_dir: str = "",
    command: Sequence[str] = ENGINE_COMMAND,
) -> None:
    """Run the agent of this machine until cancelled, then kill its engines.

    `join` is the coordinator's "host:port". Without one, a machine that has a certificate or a
    token looks for it (`seek.py`), unless it is given a `host` to wait on; without those it waits
    on loopback to be dialled (`tandem serve --nodes`). `host` is this machine's address, by
    default the one that routes to the
    coordinator. Beyond loopback it shows a certificate, which is kept in the folder `trust` and
    which a join `token` is exchanged for at the first time (`enroll.py`). `kv_dir` takes the
    place of the folder for prefixes that the server names, if it names one. Raises
    BadConfiguration, AddressInUse, NotAuthorized or VersionMismatch; a coordinator that is away
    is waited for.
    """
    if join is None and host is None:
        join = await seek(trust, token, say)
    here = host or (await local_address(join) if join is not None else "127.0.0.1")
    require_one_address(here)
    identity = await own_identity(trust, here, join, token, say)
    agent = await Agent.on_this_machine(
        here, port=port, command=command, orphan_grace=orphan_grace, say=say, kv_dir=kv_dir,
        identity=identity,
    )  # fmt: skip
    server = await NodeServer.start(here, port, identity, agent)
    agent.address = server.address
    renewing = None
    if identity is not None:
        renewing = asyncio.create_task(keep_renewed(identity, join, say), name="renew")
    try:
        node = agent.describe()
        memory = f"{node.usable_bytes / (1 << 30):.0f} of {node.memory_bytes / (1 << 30):.0f} GiB"
        say(f"{node.node_id}: {node.chip}, {node.cores} cores, {memory} for engines")
        slow = "" if node.blas.fast else f", slow: {node.blas.advice}"
        say(f"matrix library: {node.blas.name}{slow}")
        if join is not None:
            await _stay_joined(join, agent, identity, say)
        say(f"listening on {agent.address}: tandem serve --nodes {agent.address}")
        await asyncio.Event().wait()
    finally:
        with anyio.CancelScope(shield=True):
            if renewing is not None:
                renewing.cancel()
                await asyncio.wait([renewing])
            await agent.close()
            await server.stop()


async def local_address(peer: str) -> str:
    """The address of this machine from which packets to `peer` ("host:port") would leave.

    Nothing is sent. Raises BadConfiguration when the host is unknown or not routed to.
    """
    host, port = split_address(peer)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise BadConfiguration(f"can't find a way to {peer}: {error.strerror}") from error


def require_one_address(host: str) -> None:
    """Refuse 0.0.0.0 and ::, which no peer could dial; raises BadConfiguration."""
    if is_wildcard(host):
        raise BadConfiguration(
            f"--host {host} is every address of this machine; name the one that the other "
            "machines can reach"
        )


async def _stay_joined(address: str, agent: Agent, identity: IdentityFile | None, say: Say) -> None:
    """Join, and join again whenever the coordinator goes; never returns."""
    delay, said = FIRST_RETRY, ""
    while True:
        try:
            async with aclosing(registry.join(address, agent.describe(), identity)) as events:
                async for event in events:
                    if isinstance(event, registry.Welcome):
                        say(f"joined {event.cluster} at {address} as {agent.address}")
                        delay, said = FIRST_RETRY, ""
            trouble = f"the coordinator at {address} ended the membership"
        except (NodeUnreachable, Busy) as error:
            trouble = str(error)
        if trouble != said:
            say(f"{trouble}; trying again until it is back")
            said = trouble
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_RETRY)
