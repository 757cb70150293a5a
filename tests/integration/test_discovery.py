"""mDNS over loopback: coming, changing, going, and a worker that looks for its coordinator."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from anyio.streams.memory import MemoryObjectReceiveStream
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from cluster.core.cluster import Address
from cluster.core.errors import BadConfiguration, NodeUnreachable
from cluster.discovery import mdns
from cluster.discovery.advert import Advert
from cluster.discovery.find import _reachable, find_coordinator
from cluster.discovery.hear import hear
from cluster.discovery.mdns import (
    Found,
    Gone,
    Sighting,
    advertise,
    browse,
    multicast_addresses,
)

pytestmark = pytest.mark.anyio

LO = ("127.0.0.1",)
ADVERT = Advert(
    "coordinator",
    "studio",
    "c0ffee",
    "studio-1",
    1,
    8643,
    (Address("lo", "127.0.0.1", "loopback"),),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # A type of our own: other runs of these tests on this machine hear what we say.
    monkeypatch.setattr(mdns, "SERVICE", f"_tdm{os.getpid()}._tcp.local.")
    monkeypatch.setattr(mdns, "REFRESH_SECONDS", 0.1)
    monkeypatch.setattr(mdns, "RESOLVE_SECONDS", 0.5)


async def next_of(news: MemoryObjectReceiveStream[Sighting], seconds: float = 5) -> Sighting:
    async with asyncio.timeout(seconds):
        return await news.receive()


async def test_coming_and_going() -> None:
    async with browse(LO) as news:
        async with advertise(ADVERT, LO):
            found = await next_of(news)
            assert isinstance(found, Found)
            assert found.advert == ADVERT
        begun = time.monotonic()
        assert await next_of(news) == Gone(found.name)
        assert time.monotonic() - begun < 2


async def test_one_that_was_there_before() -> None:
    async with advertise(ADVERT, LO), browse(LO) as news:
        found = await next_of(news)
    assert isinstance(found, Found) and found.advert == ADVERT


async def test_several_at_once_and_a_restart() -> None:
    worker = replace(ADVERT, role="worker", node_id="mini-1")
    again = replace(ADVERT, incarnation=2)
    async with browse(LO) as news, advertise(worker, LO):
        async with advertise(ADVERT, LO):
            both = [await next_of(news), await next_of(news)]
            assert {e.advert for e in both if isinstance(e, Found)} == {ADVERT, worker}
        gone = await next_of(news)
        assert isinstance(gone, Gone)
        async with advertise(again, LO):
            back = await next_of(news)
            assert isinstance(back, Found) and back.advert == again and back.name != gone.name


@asynccontextmanager
async def raw_service(
    name: str, properties: dict[str, bytes], ttl: int = 30
) -> AsyncIterator[AsyncZeroconf]:
    """What anyone can put on the network; leaves without a goodbye."""
    zeroconf = AsyncZeroconf(interfaces=list(LO))
    info = AsyncServiceInfo(
        mdns.SERVICE, f"{name}.{mdns.SERVICE}", port=8643, properties=properties,
        server=f"{name}.local.", addresses=[socket.inet_aton(LO[0])], host_ttl=ttl, other_ttl=ttl,
    )  # fmt: skip
    await (await zeroconf.async_register_service(info, cooperating_responders=True))
    try:
        yield zeroconf
    finally:
        zeroconf.zeroconf.registry.async_remove(info)
        await zeroconf.async_close()


async def test_one_that_leaves_without_a_word() -> None:
    async with browse(LO) as news:
        async with raw_service("silent", mdns.to_txt(ADVERT), ttl=1):
            assert isinstance(await next_of(news), Found)
        begun = time.monotonic()
        assert isinstance(await next_of(news), Gone)
        assert time.monotonic() - begun < 3


async def test_garbage_is_not_news() -> None:
    async with browse(LO) as news:
        async with raw_service("garbage", {"v": b"\xff" * 200}), advertise(ADVERT, LO):
            found = await next_of(news)
            assert isinstance(found, Found) and found.advert == ADVERT
        assert isinstance(await next_of(news), Gone)
        assert news.statistics().current_buffer_used == 0


async def test_no_more_are_followed_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mdns, "MOST_SERVICES", 2)
    async with browse(LO) as news, AsyncExitStack() as stack:
        for number in range(3):
            await stack.enter_async_context(advertise(replace(ADVERT, incarnation=number), LO))
            if number < 2:
                assert isinstance(await next_of(news), Found)
        with pytest.raises(TimeoutError):
            await next_of(news, 0.3)


def test_odd_names_are_not_followed() -> None:
    followed = mdns._Followed(None, None)  # type: ignore[arg-type]
    service = mdns.SERVICE
    for name in ("x", "x._http._tcp.local.", "x" * 300 + "." + service):
        assert followed.changed(name, ServiceStateChange.Added) is None
    assert followed.changed(f"x.{service}", ServiceStateChange.Removed) is None
    assert followed.changed(f"x.{service}", ServiceStateChange.Added) is not None
    assert followed.changed(f"x.{service}", ServiceStateChange.Added) is None


@pytest.mark.parametrize(
    "interfaces", [(), ("203.0.113.1",), ("nonsense",), ("::1",), ("0.0.0.0",)]
)
async def test_where_there_is_no_mdns(interfaces: tuple[str, ...]) -> None:
    with pytest.raises(BadConfiguration, match="--join"):
        async with browse(interfaces):
            pass
    with pytest.raises(BadConfiguration, match="--join"):
        async with advertise(ADVERT, interfaces):
            pass


def test_one_address_of_each_interface() -> None:
    lo, first, second, six = (
        Address("lo", "127.0.0.1", "loopback"), Address("en0", "10.0.0.1", "ethernet"),
        Address("en0", "10.0.0.2", "ethernet"), Address("en1", "fd00::1", "wifi"),
    )  # fmt: skip
    assert multicast_addresses([first, second, six, lo]) == ("10.0.0.1",)
    assert multicast_addresses([lo, six]) == ("127.0.0.1",)
    assert multicast_addresses([six]) == ()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def ours(advert: Advert) -> bool:
    return advert.cluster_id == "c0ffee"


async def test_those_who_listen_at_once_hear_each_other_and_nobody_else() -> None:
    one = replace(ADVERT, role="worker")
    other, third = replace(one, node_id="mini-1"), replace(one, node_id="mini-2")
    stranger = replace(one, node_id="strange-1", cluster_id="another")
    async with advertise(ADVERT, LO), advertise(stranger, LO):  # a server is no machine
        heard = await asyncio.gather(*(hear(each, LO, 1.5) for each in (one, other, third)))
    assert heard == [("mini-1", "mini-2"), ("mini-2", "studio-1"), ("mini-1", "studio-1")]
    assert await hear(one, LO, 0.2) == ()
    with pytest.raises(BadConfiguration, match="no IPv4 address of ours"):
        await hear(one, ["192.0.2.1"], 1)


async def test_a_worker_finds_its_coordinator(port: int) -> None:
    dead = Address("en0", "127.0.0.9", "thunderbolt")
    away = replace(ADVERT, port=port, addresses=(dead, *ADVERT.addresses))
    other = replace(ADVERT, port=port, cluster_id="another", node_id="other-1")
    worker = replace(ADVERT, port=port, role="worker")
    async with advertise(other, LO), advertise(worker, LO), advertise(away, LO):
        begun = time.monotonic()
        assert await find_coordinator(ours, 10, LO) == f"127.0.0.1:{port}"
        assert time.monotonic() - begun < 3


async def test_the_latest_is_taken(port: int) -> None:
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        now = replace(ADVERT, port=server.sockets[0].getsockname()[1], incarnation=2)
        ghost, later = replace(ADVERT, port=port), replace(ADVERT, port=9, incarnation=3)
        assert await _reachable([ghost, later, now], Counter()) == f"127.0.0.1:{now.port}"
        assert await _reachable([later], Counter()) is None
        assert await _reachable([], Counter()) is None


async def test_lies_by_the_dozen_do_not_hide_the_truth(port: int) -> None:
    truth = f"127.0.0.1:{port}"
    lies = [replace(ADVERT, port=9 + number, incarnation=99) for number in range(30)]
    checked: list[str] = []

    async def check(address: str) -> bool:
        checked.append(address)
        return address == truth

    tried: Counter[Advert] = Counter()
    rounds = [await _reachable([*lies, replace(ADVERT, port=port)], tried, check) for _ in range(4)]
    assert rounds == [None, None, None, truth]
    assert len(checked) == len({*checked}) + 1 == 32  # the first lie was asked again


async def test_one_that_comes_later(port: int) -> None:
    finding = asyncio.create_task(find_coordinator(ours, 10, LO))
    async with advertise(replace(ADVERT, cluster_id="another"), LO):
        async with browse(LO) as news:
            await next_of(news)
        assert not finding.done()
        async with advertise(replace(ADVERT, port=port), LO):
            assert await finding == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("advert", "message"),
    [
        (replace(ADVERT, role="worker"), r"^no coordinator was found by mDNS on 127\.0\.0\.1"),
        (replace(ADVERT, cluster_id="another"), "no coordinator of this cluster.*only of studio"),
        (replace(ADVERT, port=9), "studio-1 advertises this cluster, but none of its addresses"),
    ],
)
async def test_nobody_is_found(advert: Advert, message: str) -> None:
    async with advertise(advert, LO):
        with pytest.raises(NodeUnreachable, match=message):
            await find_coordinator(ours, 0.6, LO)
