"""A worker looks for its coordinator: without a network, among lies, and as long as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.core.cluster import Address
from cluster.core.errors import NodeUnreachable
from cluster.discovery.advert import Advert, cluster_mark
from cluster.discovery.find import Check
from cluster.node import seek as seeking
from cluster.node.seek import seek
from cluster.trust.authority import Authority
from cluster.trust.certificate import fingerprint
from cluster.trust.identity import IdentityFile
from cluster.wire.enrollment import EnrollmentServer
from tests.integration.trust import free_port, running

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeking, "NETWORK_SECONDS", 0.01)


class Network:
    """What would be found by mDNS: a few addresses, in each round those of the next."""

    def __init__(self, *rounds: Sequence[str]) -> None:
        self.rounds = list(rounds)
        self.accepts: Callable[[Advert], bool] = bool

    async def find(
        self,
        accept: Callable[[Advert], bool],
        seconds: float,
        interfaces: Sequence[str],
        check: Check,
    ) -> str:
        """In place of `find_coordinator`."""
        assert interfaces
        for address in self.rounds.pop(0):
            if await check(address):
                self.accepts = accept
                return address
        raise NodeUnreachable("no coordinator was found")


async def test_the_true_one_is_found_among_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Authority.open(tmp_path / "liar")
    liar.renew_own()
    port = free_port("127.0.0.1")
    lying = await EnrollmentServer.start(
        "127.0.0.1", port + 2, IdentityFile(liar.folder / "coordinator.json"), liar
    )
    lie, nobody = f"127.0.0.1:{port}", "127.0.0.1:9"
    async with running(tmp_path / "authority") as cluster:
        true = cluster.registry.address
        network = Network([lie], [lie, nobody], [nobody, lie, true])
        networks: list[tuple[str, ...]] = [(), (), *[("127.0.0.1",)] * 3]
        monkeypatch.setattr(seeking, "find_coordinator", network.find)
        monkeypatch.setattr(seeking, "own_networks", lambda: networks.pop(0))
        lines: list[str] = []
        assert await seek(tmp_path, cluster.token(), lines.append) == true
        assert len(lines) == 3  # each is said once
        assert lines[0] == "this machine has no address on any network yet; looking on"
        assert lines[1].startswith(f"{lie} advertises this cluster, and is not of it")
        assert lines[2] == "no coordinator was found; looking on"
        mark = cluster_mark(fingerprint(cluster.authority.certificate))
        where = (Address("lo", "127.0.0.1", "loopback"),)
        for theirs, ours in ((mark, True), ("another", False)):
            advert = Advert("coordinator", "studio", theirs, "studio-1", 1, 8643, where)
            assert network.accepts(advert) is ours
        # One that has joined needs no token.
        cluster.joined(tmp_path)
        network.rounds, networks[:] = [[lie, true]], [("127.0.0.1",)]
        assert await seek(tmp_path, None, lines.append) == true
    await lying.stop()


async def test_who_has_no_cluster_looks_for_none(tmp_path: Path) -> None:
    assert await seek(tmp_path, None, lambda line: None) is None
