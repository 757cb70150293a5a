"""Whom a machine hears by mDNS, while the others of its cluster find out the same."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from cluster.discovery.advert import Advert
from cluster.discovery.mdns import Found, advertise, browse

MOST_HEARD = 64

HEAR_SECONDS = 3.0
"""An advert is sent three times within half a second, and whenever somebody asks, which they do
at once and a second later."""


async def hear(
    own: Advert, interfaces: Sequence[str], seconds: float = HEAR_SECONDS
) -> tuple[str, ...]:
    """Advertise `own` and listen for `seconds`: the ids of others of its cluster and role, as they
    say.

    Only what comes by multicast counts, so that a network which passes it one way is noticed.
    Machines that do this at the same time hear each other. Raises BadConfiguration when there is
    no mDNS on `interfaces`, IPv4 addresses of this machine.
    """
    heard: set[str] = set()
    async with advertise(own, interfaces), browse(interfaces, multicast_only=True) as news:
        with anyio.move_on_after(seconds):
            async for event in news:
                if isinstance(event, Found) and _is_like(event.advert, own):
                    heard.add(event.advert.node_id)
    return tuple(sorted(heard - {own.node_id}))[:MOST_HEARD]


def _is_like(advert: Advert, own: Advert) -> bool:
    """Of the same cluster and role: a server's advert stands for no machine."""
    return (advert.cluster_id, advert.role) == (own.cluster_id, own.role)
