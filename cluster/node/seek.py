"""A worker that was not told where its coordinator is asks the network (mDNS)."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from cluster.core.errors import BadConfiguration, NodeUnreachable, NotAuthorized
from cluster.discovery.advert import Advert, cluster_mark
from cluster.discovery.find import find_coordinator
from cluster.node.engine_process import Say
from cluster.node.links import read_addresses
from cluster.trust.certificate import fingerprint, load
from cluster.trust.identity import DEFAULT_FOLDER, NODE_FILE, read_identity
from cluster.trust.token import JoinToken
from cluster.wire.enrollment import prove

SEEK_SECONDS = 15.0
"""After which a person is told that nothing was found yet."""
NETWORK_SECONDS = 1.0
"""Between two looks at a machine's own addresses while it has none."""
PROVE_SECONDS = 3.0
"""For a coordinator that was found to prove that it is one of this cluster."""
MOST_FALSE = 16
"""That a person is told of."""


async def seek(trust: Path | None, token: str | None, say: Say) -> str | None:
    """Where the coordinator of this machine's cluster listens, "host:port", as soon as it is
    found; None when the machine has neither certificate nor token, and so no cluster.

    Raises BadConfiguration when the token is none, or there is no mDNS here.
    """
    path = (trust or DEFAULT_FOLDER).expanduser().absolute() / NODE_FILE
    kept = await asyncio.to_thread(read_identity, path)
    if token is not None:
        authority = JoinToken.parse(token).fingerprint
    elif kept is not None:
        authority = fingerprint(load(kept.authority))
    else:
        return None
    mark = cluster_mark(authority)
    false: set[str] = set()

    def ours(advert: Advert) -> bool:
        return advert.cluster_id == mark

    async def proves(address: str) -> bool:
        """It is what was advertised. What is not, a person is told of once."""
        try:
            async with asyncio.timeout(PROVE_SECONDS):
                await prove(address, authority)
        except (NodeUnreachable, BadConfiguration, TimeoutError):
            return False
        except NotAuthorized as error:
            if address not in false and len(false) < MOST_FALSE:
                false.add(address)
                say(f"{address} advertises this cluster, and is not of it ({error}); looking on")
            return False
        return True

    said = ""
    while True:
        try:
            return await find_coordinator(ours, SEEK_SECONDS, await _networks(say), proves)
        except NodeUnreachable as error:
            if str(error) != said:
                said = str(error)
                say(f"{said}; looking on")


async def _networks(say: Say) -> tuple[str, ...]:
    """`own_networks`, as soon as there are any: a machine that starts may be quicker than its
    network."""
    said = False
    while not (found := await asyncio.to_thread(own_networks)):
        if not said:
            say("this machine has no address on any network yet; looking on")
            said = True
        await asyncio.sleep(NETWORK_SECONDS)
    return found


def own_networks() -> tuple[str, ...]:
    """This machine's IPv4 addresses that lead to others."""
    return tuple(
        address.ip
        for address in read_addresses()
        if address.kind != "loopback" and ipaddress.ip_address(address.ip).version == 4
    )
