"""A worker that was not told where its coordinator is asks the network (mDNS)."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from cluster.core.errors import NodeUnreachable
from cluster.discovery.advert import Advert, cluster_mark
from cluster.discovery.find import find_coordinator
from cluster.node.engine_process import Say
from cluster.node.links import read_addresses
from cluster.trust.certificate import fingerprint, load
from cluster.trust.identity import DEFAULT_FOLDER, NODE_FILE, read_identity
from cluster.trust.token import JoinToken

SEEK_SECONDS = 15.0
"""After which a person is told that nothing was found yet."""


async def seek(trust: Path | None, token: str | None, say: Say) -> str | None:
    """Where the coordinator of this machine's cluster listens, "host:port", as soon as it is
    found; None when the machine has neither certificate nor token, and so no cluster.

    Raises BadConfiguration when the token is none, or there is no mDNS here.
    """
    path = (trust or DEFAULT_FOLDER).expanduser().absolute() / NODE_FILE
    kept = await asyncio.to_thread(read_identity, path)
    if token is not None:
        mark = cluster_mark(JoinToken.parse(token).fingerprint)
    elif kept is not None:
        mark = cluster_mark(fingerprint(load(kept.authority)))
    else:
        return None

    def ours(advert: Advert) -> bool:
        return advert.cluster_id == mark

    said = ""
    while True:
        try:
            return await find_coordinator(ours, SEEK_SECONDS, own_networks())
        except NodeUnreachable as error:
            if str(error) != said:
                said = str(error)
                say(f"{said}; looking on")


def own_networks() -> tuple[str, ...]:
    """This machine's IPv4 addresses that lead to others."""
    return tuple(
        address.ip
        for address in read_addresses()
        if address.kind != "loopback" and ipaddress.ip_address(address.ip).version == 4
    )
