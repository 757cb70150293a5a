"""Adverts over mDNS (RFC 6762, 6763): sent while a node lives, and those of others followed.

Multicast reaches the machines of one network segment. Where it does not pass, `tandem worker
--join HOST:PORT` does without all of this.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from cluster.core.cluster import Address
from cluster.core.errors import BadConfiguration
from cluster.discovery.advert import Advert, from_txt, to_txt

SERVICE = "_tandem._tcp.local."

TTL_SECONDS = 30
"""How long others believe an advert that is not renewed."""

REFRESH_SECONDS = 10.0
"""Between two looks at a service that is known: it is asked for when its record has run out."""

RESOLVE_SECONDS = 3.0
"""For a service to answer."""

CLOSE_SECONDS = 2.0
"""For goodbyes."""

MOST_SERVICES = 64
"""That are followed; more are not seen until some of them go."""

MOST_INTERFACES = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A service has come, or says something else than before under the same `name`."""

    name: str
    advert: Advert


@dataclass(frozen=True, slots=True)
class Gone:
    """A service that was found has said goodbye, or answers no more."""

    name: str


Sighting = Found | Gone


def multicast_addresses(addresses: Iterable[Address]) -> tuple[str, ...]:
    """Of a machine's addresses, one for each interface on which to advertise and browse: IPv4,
    and loopback only where there is nothing else."""
    usable = [a for a in addresses if ipaddress.ip_address(a.ip).version == 4]
    outside = [a for a in usable if a.kind != "loopback"] or usable
    return tuple({a.interface: a.ip for a in reversed(outside)}.values())[:MOST_INTERFACES]


@asynccontextmanager
async def advertise(advert: Advert, interfaces: Sequence[str]) -> AsyncIterator[None]:
    """Tell the networks of `interfaces`, IPv4 addresses of this machine, for as long as this is
    entered; then say goodbye. Raises BadConfiguration when that can't be done."""
    properties = to_txt(advert)
    identity = f"{advert.node_id} {advert.incarnation} {advert.port}"
    name = f"{advert.role}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    info = AsyncServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=advert.port,
        properties=properties,
        server=f"tandem-{name}.local.",
        addresses=[socket.inet_aton(ip) for ip in _ours(interfaces)],
        host_ttl=TTL_SECONDS,
        other_ttl=TTL_SECONDS,
    )
    async with _zeroconf(interfaces) as zeroconf:
        # The name is of a hash: nobody has it already, so nobody needs to be asked first.
        announcing = await zeroconf.async_register_service(info, cooperating_responders=True)
        try:
            yield
        finally:
            asyncio.ensure_future(announcing).cancel()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await (await zeroconf.async_unregister_service(info))


@asynccontextmanager
async def browse(
    interfaces: Sequence[str], *, multicast_only: bool = False
) -> AsyncIterator[MemoryObjectReceiveStream[Sighting]]:
    """Follow what is advertised on the networks of `interfaces`, IPv4 addresses of this machine.

    With `multicast_only` nobody is asked to answer to this machine alone (RFC 6762, section 5.4),
    which would find machines whose multicast does not arrive here.
    Candidates only, from whoever sends them. A reader that falls behind holds up the news, which
    are not lost. Raises BadConfiguration when that can't be done; what is raised while this is
    entered comes wrapped in an ExceptionGroup.
    """
    send, receive = anyio.create_memory_object_stream[Sighting](MOST_SERVICES)
    async with (
        send,
        receive,
        _zeroconf(interfaces) as zeroconf,
        asyncio.TaskGroup() as group,
    ):
        followed = _Followed(zeroconf.zeroconf, send)
        tasks: set[asyncio.Task[None]] = set()

        def changed(
            zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
        ) -> None:
            if (service := followed.changed(name, state_change)) is not None:
                # Not anyio's: this may run outside of any task.
                task = group.create_task(followed.follow(name, service), name="mDNS service")
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        kind = DNSQuestionType.QM if multicast_only else None
        browser = AsyncServiceBrowser(
            zeroconf.zeroconf, SERVICE, handlers=[changed], question_type=kind
        )
        async with browser:
            yield receive
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _zeroconf(interfaces: Sequence[str]) -> AsyncIterator[AsyncZeroconf]:
    where = ", ".join(interfaces) or "no address"
    hint = "use tandem worker --join HOST:PORT instead"
    ours = _ours(interfaces)
    if not ours:
        raise BadConfiguration(f"mDNS can't be used on {where} (no IPv4 address of ours): {hint}")
    try:
        zeroconf = AsyncZeroconf(interfaces=ours, ip_version=IPVersion.V4Only)
    except OSError as error:
        raise BadConfiguration(f"mDNS can't be used on {where} ({error}): {hint}") from error
    try:
        await zeroconf.zeroconf.async_wait_for_start()
        if not zeroconf.zeroconf.engine.senders:
            raise BadConfiguration(f"mDNS can't be used on {where} (no multicast there): {hint}")
        yield zeroconf
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await zeroconf.async_close()


def _ours(interfaces: Iterable[str]) -> list[str]:
    """Those that are IPv4 addresses of this machine now: an interface may just have gone."""
    found = []
    for ip in dict.fromkeys(interfaces):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind((ip, 0))
            if probe.getsockname()[0] == ip != "0.0.0.0":  # noqa: S104 - it is refused
                found.append(ip)
    return found[:MOST_INTERFACES]


@dataclass(slots=True)
class _Service:
    """One name, for as long as the network knows it."""

    present: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class _Followed:
    """Every name that is known, each with a task that looks after it."""

    def __init__(self, zeroconf: Zeroconf, news: MemoryObjectSendStream[Sighting]) -> None:
        self._zeroconf = zeroconf
        self._news = news
        self._services: dict[str, _Service] = {}

    def changed(self, name: str, change: ServiceStateChange) -> _Service | None:
        """Take note of what the network says of `name`; a service that is new is to be followed."""
        service = self._services.get(name)
        if service is not None:
            service.present = change is not ServiceStateChange.Removed
            service.changed.set()
            return None
        if change is ServiceStateChange.Removed or len(self._services) >= MOST_SERVICES:
            return None
        if not name.endswith(f".{SERVICE}") or len(name) > 255:
            return None
        self._services[name] = service = _Service()
        return service

    async def follow(self, name: str, service: _Service) -> None:
        """Report the service's comings and goings until the network has forgotten its name."""
        known: Advert | None = None
        try:
            while True:
                service.changed.clear()
                advert = await self._resolve(name) if service.present else None
                if advert is not None and advert != known:
                    await self._news.send(Found(name, advert))
                elif advert is None and known is not None:
                    await self._news.send(Gone(name))
                known = advert
                if not service.present:
                    return
                with anyio.move_on_after(REFRESH_SECONDS):
                    await service.changed.wait()
        finally:
            del self._services[name]

    async def _resolve(self, name: str) -> Advert | None:
        """What the service says; from the cache while that has not run out."""
        info = AsyncServiceInfo(SERVICE, name)
        if await info.async_request(self._zeroconf, RESOLVE_SECONDS * 1000):
            return from_txt(info.properties, info.port)
        return None
