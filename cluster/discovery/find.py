"""A worker looks for the coordinator of its cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import anyio

from cluster.core.errors import NodeUnreachable
from cluster.discovery.advert import Advert
from cluster.discovery.mdns import Found, Sighting, browse

RETRY_SECONDS = 1.0
"""Between attempts to reach those that were found."""

CONNECT_SECONDS = 1.0

_MOST_DIALLED = 8
"""Coordinators, and addresses of each, that are tried at a time."""


async def find_coordinator(
    accept: Callable[[Advert], bool], seconds: float, interfaces: Sequence[str]
) -> str:
    """Where a coordinator listens that `accept` takes and that can be reached: "HOST:PORT".

    Of several addresses the best kind is taken. That something listens there is all that is
    known: whoever connects must check its certificate, and may have `accept` refuse what has
    proved false. `interfaces` are IPv4 addresses of this machine on whose networks to look.
    Raises NodeUnreachable after `seconds`, with what was seen; BadConfiguration when there is
    no mDNS here.
    """
    known: dict[str, Advert] = {}
    async with browse(interfaces) as news:
        with anyio.move_on_after(seconds):
            while True:
                with anyio.move_on_after(RETRY_SECONDS):
                    _note(known, await news.receive())
                    with suppress(anyio.WouldBlock):
                        while True:
                            _note(known, news.receive_nowait())
                wanted = [advert for advert in known.values() if accept(advert)]
                if (address := await _reachable(wanted)) is not None:
                    return address
    wanted = [advert for advert in known.values() if accept(advert)]
    where = ", ".join(interfaces)
    if wanted:
        names = ", ".join(sorted({advert.node_id for advert in wanted}))
        what = f"{names} advertises this cluster, but none of its addresses can be reached"
    elif known:
        names = ", ".join(
            sorted({advert.cluster or advert.cluster_id for advert in known.values()})
        )
        what = f"no coordinator of this cluster was found, only of {names}"
    else:
        what = "no coordinator was found"
    raise NodeUnreachable(
        f"{what} by mDNS on {where} in {seconds:g} s: is tandem serve running there? Where "
        "multicast does not pass, use --join HOST:PORT"
    )


def _note(known: dict[str, Advert], event: Sighting) -> None:
    """Remember the coordinators that are there."""
    if isinstance(event, Found) and event.advert.role == "coordinator":
        known[event.name] = event.advert
    else:
        known.pop(event.name, None)


async def _reachable(adverts: Iterable[Advert]) -> str | None:
    """The first address of the latest advert that takes a connection."""
    latest = sorted(adverts, key=lambda advert: -advert.incarnation)[:_MOST_DIALLED]
    targets = [(a.ip, advert.port) for advert in latest for a in advert.addresses[:_MOST_DIALLED]]
    reached = await asyncio.gather(*(_connects(*target) for target in targets))
    for (ip, port), there in zip(targets, reached, strict=True):
        if there:
            return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return None


async def _connects(ip: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(ip, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
