"""A worker looks for the coordinator of its cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
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

Check = Callable[[str], Awaitable[bool]]
"""Whether it is worth to connect to "HOST:PORT"."""


async def listens(address: str) -> bool:
    """A Check: something takes connections there. That proves nothing about who it is."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def find_coordinator(
    accept: Callable[[Advert], bool],
    seconds: float,
    interfaces: Sequence[str],
    check: Check = listens,
) -> str:
    """Where a coordinator listens that `accept` takes and that passes the `check`: "HOST:PORT".

    Of several addresses the best kind is taken. `interfaces` are IPv4 addresses of this machine
    on whose networks to look. Raises NodeUnreachable after `seconds`, with what was seen;
    BadConfiguration when there is no mDNS here.
    """
    known: dict[str, Advert] = {}
    tried: Counter[Advert] = Counter()
    async with browse(interfaces) as news:
        with anyio.move_on_after(seconds):
            while True:
                with anyio.move_on_after(RETRY_SECONDS):
                    _note(known, await news.receive())
                    with suppress(anyio.WouldBlock):
                        while True:
                            _note(known, news.receive_nowait())
                wanted = [advert for advert in known.values() if accept(advert)]
                tried = Counter({advert: tried[advert] for advert in wanted})
                if (address := await _reachable(wanted, tried, check)) is not None:
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


async def _reachable(
    adverts: Iterable[Advert], tried: Counter[Advert], check: Check = listens
) -> str | None:
    """The first address that passes, of the latest adverts. Those that were tried more often come
    later: whoever advertises lies by the dozen does not hide the truth."""
    latest = sorted(adverts, key=lambda advert: (tried[advert], -advert.incarnation))
    latest = latest[:_MOST_DIALLED]
    tried.update(latest)
    targets = [
        f"[{address.ip}]:{advert.port}" if ":" in address.ip else f"{address.ip}:{advert.port}"
        for advert in latest
        for address in advert.addresses[:_MOST_DIALLED]
    ]
    passed = await asyncio.gather(*map(check, targets))
    return next((target for target, good in zip(targets, passed, strict=True) if good), None)
