"""Machines join with a token and talk over mutual TLS; nobody else gets in, and nothing that they
try disturbs those who are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster import demo
from cluster.coordinator.members import Member, Members
from cluster.coordinator.trust import Trust
from cluster.core.clock import SystemClock
from cluster.core.cluster import Hello, Ready, ShardPlan
from cluster.core.errors import (
    BadConfiguration,
    ModelUnavailable,
    NodeUnreachable,
    NotAuthorized,
    TooManyRequests,
)
from cluster.core.ids import Epoch, Rank
from cluster.core.manifest import Wanted
from cluster.core.versions import versions
from cluster.model.digest import digest
from cluster.node.agent import Agent
from cluster.node.enroll import keep_renewed, own_identity, renew
from cluster.node.worker import run_worker
from cluster.trust import certificate
from cluster.trust.attempts import FAILURES
from cluster.trust.authority import Authority
from cluster.trust.certificate import Role
from cluster.trust.identity import Draft, IdentityFile, read_identity
from cluster.trust.token import JoinToken
from cluster.wire import security
from cluster.wire.engine_client import connect
from cluster.wire.engine_server import EngineServer
from cluster.wire.enrollment import EnrollmentServer, enroll, prove
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from cluster.wire.registry import StillHere, Welcome, join
from cluster.wire.v1 import node_pb2, node_pb2_grpc
from tests.conftest import wait_for
from tests.integration.test_engine_stream import SECRET, FakeEngine
from tests.integration.test_node_agent import COMMAND, make_agent, spec, until
from tests.integration.trust import (
    Cluster,
    description,
    foreign,
    forged,
    free_port,
    posing,
    running,
    send,
    tapped,
)

pytestmark = pytest.mark.anyio

DEMO = Wanted("demo", digest(demo.folder()))
HELLO = Hello(Epoch(3), 1, versions(), "digest", ShardPlan(1, Rank(0), "single", "none"))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.registry.ALIVE_SECONDS", 0.05)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "authority") as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> IdentityFile:
    return cluster.joined(tmp_path / "studio")


class Tasks:
    """Owns the tasks of a Members; a TaskGroup would put what is raised into a group."""

    def __init__(self) -> None:
        self.made: list[asyncio.Task[None]] = []

    def create_task(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        self.made.append(asyncio.create_task(work, name=name))
        return self.made[-1]


@asynccontextmanager
async def dial(address: str, trust: Trust, ranks: int) -> AsyncIterator[Member]:
    """The machine whose agent listens there, as a coordinator calls it."""
    tasks = Tasks()
    try:
        yield await Members(SystemClock(), trust, tasks).call(address, ranks)  # type: ignore[arg-type]
    finally:
        for task in tasks.made:
            task.cancel()
        await asyncio.wait(tasks.made)


@asynccontextmanager
async def worker(lines: list[str], **how: Any) -> AsyncIterator[asyncio.Task[None]]:
    settings = {"join": None, "host": "127.0.0.2", "port": 0, "token": None, "orphan_grace": 1.0}
    run = run_worker(**(settings | how), say=lines.append, command=COMMAND)  # type: ignore[arg-type]
    task = asyncio.create_task(run)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def agent_of(identity: IdentityFile) -> AsyncIterator[tuple[Agent, str]]:
    """A listening agent, and where it listens."""
    agent = make_agent()
    agent._node_id = identity.current().name.id
    server = await NodeServer.start("127.0.0.3", 0, identity, agent)
    agent.address = server.address
    try:
        yield agent, server.address
    finally:
        await agent.close()
        await server.stop()


async def config_of(client: NodeClient) -> bytes:
    """A file of the demo model, as the agent gives it."""
    return bytes(await client.read_chunk(DEMO, "config.json", 0, 1 << 20))


async def is_refused(client: NodeClient, name: str) -> None:
    """The agent soon gives it nothing."""
    with pytest.raises(NotAuthorized, match=f"{name} was revoked"):
        async with asyncio.timeout(5):
            while True:
                await config_of(client)


@asynccontextmanager
async def undisturbed(cluster: Cluster, node: IdentityFile) -> AsyncIterator[None]:
    """A member joins before, and is one all the time; a newcomer can enroll after."""
    async with aclosing(join(cluster.registry.address, description(node), node)) as events:
        assert isinstance(await anext(events), Welcome)
        before = list(cluster.members.now), cluster.members.joined, len(cluster.authority.nodes())
        yield
        nodes = len(cluster.authority.nodes())
        assert (list(cluster.members.now), cluster.members.joined, nodes) == before
        assert isinstance(await anext(events), StillHere)
    await enroll(cluster.registry.address, JoinToken.parse(cluster.token()), "late")


class TestJoining:
    async def test_one_command_is_all(self, cluster: Cluster, tmp_path: Path) -> None:
        lines: list[str] = []
        how = {"join": cluster.registry.address, "trust": tmp_path / "w"}
        token = cluster.token()
        async with worker(lines, token=token, **how):
            await wait_for(lambda: cluster.members.now, 10)
            member = cluster.members.now[0]
            identity = read_identity(tmp_path / "w" / "node.json")
            assert identity is not None and identity.name.id == member.node_id
            async with dial(member.agent_address, cluster.trust, 1) as dialled:
                assert dialled.description == member
                async with aclosing(dialled.client.launch(spec("ready"))) as events:
                    await until(events, Ready)
        await wait_for(lambda: not cluster.members.now)
        for again in (None, token):  # the same token may stay where it is: it is not shown again
            async with worker(lines, token=again, **how):
                await wait_for(lambda: cluster.members.now, 10)
                assert cluster.members.now[0].node_id == member.node_id
            await wait_for(lambda: not cluster.members.now)
        assert sum("enrolled as" in line for line in lines) == 1
        assert not any(token[-60:] in line for line in lines)

    async def test_a_coordinator_that_is_away_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cluster.node.enroll.FIRST_RETRY", 0.05)
        lines: list[str] = []
        async with running(tmp_path / "a") as first:
            token, address = first.token(), first.registry.address
        async with worker(lines, join=address, token=token, trust=tmp_path / "w"):
            await wait_for(lambda: any("to enroll" in line for line in lines))

    async def test_a_new_token_makes_a_new_machine(self, cluster: Cluster, tmp_path: Path) -> None:
        async def enrolled(token: str | None) -> str:
            file = await own_identity(
                tmp_path, "127.0.0.2", cluster.registry.address, token, lambda line: None
            )
            assert file is not None
            return file.current().name.id

        first = await enrolled(cluster.token())
        assert await enrolled(None) == first
        cluster.authority.revoke_node(first)
        second = await enrolled(cluster.token())
        assert second != first and not cluster.trust.is_revoked(second)

    async def test_loopback_needs_nothing(self) -> None:
        assert await own_identity(None, "127.0.0.1", None, None, lambda line: None) is None

    async def test_neither_certificate_nor_token(self, tmp_path: Path) -> None:
        for token, join_at in ((None, "127.0.0.1:9"), (None, None)):
            with pytest.raises(BadConfiguration, match="not one of a cluster yet.*--token"):
                await own_identity(tmp_path, "127.0.0.2", join_at, token, lambda line: None)

    async def test_an_expired_certificate_is_known_for_what_it_is(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        forged(cluster, tmp_path / "e", days=-1)
        with pytest.raises(BadConfiguration, match="certificate has expired"):
            await own_identity(tmp_path / "e", "127.0.0.2", "127.0.0.1:9", None, lambda line: None)

    async def test_only_the_chosen_address_is_listened_on(
        self, cluster: Cluster, node: IdentityFile
    ) -> None:
        async with agent_of(node) as (_, address):
            host, port = security.split_address(address)
            assert host == "127.0.0.3"
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(BadConfiguration, match="is not an address of this machine"):
            await NodeServer.start("203.0.113.9", 0, node, make_agent())


class TestTokens:
    async def refused(
        self, cluster: Cluster, text: str, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.clear()
        with pytest.raises(NotAuthorized, match=why):
            await enroll(cluster.registry.address, JoinToken.parse(text), "intruder")
        (line,) = [r.getMessage() for r in caplog.records if r.name == "tandem.wire"]
        assert line.startswith("refused to enroll 127.0.0.1:") and text[20:40] not in line

    async def test_expired_used_and_guessed(
        self, cluster: Cluster, node: IdentityFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with undisturbed(cluster, node):
            await self.refused(cluster, cluster.token(-1), "has expired", caplog)
            used = cluster.token()
            cluster.authority.enroll(used, Draft().request, "a")
            cluster.authority.revoke_node(cluster.authority.nodes()[-1].id)
            token = JoinToken.parse(used)
            await self.refused(cluster, used, "used already", caplog)
            guessed = JoinToken(token.id, bytes(20), token.fingerprint)
            await self.refused(cluster, str(guessed), "not known", caplog)
            cluster.authority._keep_nodes(cluster.authority.nodes()[:-1])

    async def test_of_another_cluster_it_is_not_even_shown(
        self, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = Authority.open(tmp_path / "other")
        token = other.create_token(60)
        with pytest.raises(NotAuthorized, match="token is one of another cluster"):
            await enroll(cluster.registry.address, token, "lost")
        assert not caplog.records
        # And if it is shown all the same:
        own = certificate.fingerprint(cluster.authority.certificate)
        patched = JoinToken(token.id, token.secret, own)
        await self.refused(cluster, str(patched), "not known", caplog)

    async def test_whoever_guesses_is_slowed_down(self, cluster: Cluster) -> None:
        wrong = JoinToken.parse(cluster.token(-1))
        for _ in range(FAILURES):
            with pytest.raises(NotAuthorized):
                await enroll(cluster.registry.address, wrong, "a")
        with pytest.raises(TooManyRequests):
            await enroll(cluster.registry.address, wrong, "a")

    async def test_a_request_of_no_use(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        authority = certificate.pem(cluster.authority.certificate)
        token = cluster.token()
        async with security.newcomer_channel(cluster.enrollment, authority) as channel:
            stub = node_pb2_grpc.EnrollmentStub(channel)
            for fields in ({"request": b"junk"}, {"request": b"j" * 5000}, {"token": "t" * 9000}):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Enroll(node_pb2.EnrollRequest(**{"token": token, **fields}))
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Enroll(node_pb2.EnrollRequest(token="t" * 20_000))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(cluster.authority.nodes()) == 1  # this machine's own agent

    async def test_nothing_else_answers_newcomers(self, cluster: Cluster) -> None:
        authority = certificate.pem(cluster.authority.certificate)
        async with security.newcomer_channel(cluster.enrollment, authority) as channel:
            for call in (
                node_pb2_grpc.RegistryStub(channel).Renew(node_pb2.RenewRequest()),
                node_pb2_grpc.NodeStub(channel).Describe(node_pb2.DescribeRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GARBAGE = (b"\0" * 50_000, b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\xff" * 9999)
HALF = b"\x16\x03\x01\x02\0"


class TestIntruders:
    """At every port that a cluster has."""

    @pytest.fixture
    async def ports(self, cluster: Cluster, node: IdentityFile) -> AsyncIterator[dict[str, str]]:
        engine = EngineServer(FakeEngine(), SECRET, node)
        await engine.start("127.0.0.3")
        async with agent_of(node) as (_, agent):
            yield {
                "registry": cluster.registry.address,
                "agent": agent,
                "engine": engine.endpoint,
                "enrollment": cluster.enrollment,
            }
        await engine.stop()

    async def test_garbage(
        self, cluster: Cluster, node: IdentityFile, ports: dict[str, str]
    ) -> None:
        async with undisturbed(cluster, node):
            for address in ports.values():
                await asyncio.gather(*(send(address, garbage) for garbage in GARBAGE))
        async with dial(ports["agent"], cluster.trust, 1):
            pass

    async def test_half_a_greeting_and_silence_are_hung_up_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for options in ("_SERVER", "_NEWCOMER_SERVER"):
            usual = dict(getattr(security, options))
            assert usual["grpc.server_handshake_timeout_ms"] == 10_000
            soon = {**usual, "grpc.server_handshake_timeout_ms": 200}
            monkeypatch.setattr(security, options, list(soon.items()))
        async with running(tmp_path / "impatient") as cluster:
            for address in (cluster.registry.address, cluster.enrollment):
                assert await asyncio.wait_for(send(address, HALF), 5) == b""

    @pytest.mark.parametrize("port", ["registry", "agent", "engine"])
    @pytest.mark.parametrize("who", ["plain", "newcomer", "foreign", "expired"])
    async def test_without_a_certificate_of_this_cluster(
        self,
        cluster: Cluster,
        node: IdentityFile,
        ports: dict[str, str],
        tmp_path: Path,
        port: str,
        who: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        address = ports[port]
        authority = certificate.pem(cluster.authority.certificate)
        channels: dict[str, Callable[[], grpc.aio.Channel]] = {
            "plain": lambda: security.channel(address, None, ""),
            "newcomer": lambda: security._secure(
                *security.split_address(address),
                grpc.ssl_channel_credentials(authority.encode()),
                self.server_name(address),
            ),
            "foreign": lambda: self.channel(address, foreign(cluster, tmp_path / "f")),
            "expired": lambda: self.channel(address, forged(cluster, tmp_path / "e", days=-0.01)),
        }
        async with undisturbed(cluster, node), channels[who]() as channel:
            for call in calls(channel):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Handshake failed" in capfd.readouterr().err  # gRPC's own log says so, and why

    @staticmethod
    def server_name(address: str) -> str:
        role = Role.COORDINATOR if address.startswith("127.0.0.1:") else Role.NODE
        return role.server_name

    def channel(self, address: str, identity: IdentityFile) -> grpc.aio.Channel:
        return security.channel(address, identity, self.server_name(address))

    @pytest.mark.parametrize("port", ["agent", "engine"])
    async def test_another_node_may_not_command_this_one(
        self,
        cluster: Cluster,
        node: IdentityFile,
        ports: dict[str, str],
        tmp_path: Path,
        port: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        other = cluster.joined(tmp_path / "other")
        name = other.current().name.id
        async with undisturbed(cluster, node):
            with pytest.raises(NotAuthorized, match=f"{name} is a node here, and only a coord"):
                if port == "agent":
                    async with NodeClient(ports["agent"], other) as client:
                        await until(client.launch(spec("ready")), Ready)
                else:
                    own = node.current().name.id
                    async with connect(ports["engine"], SECRET, HELLO, other, own):
                        pass
        assert any(
            record.getMessage().startswith("refused a call from 127.0.0.1:")
            and name in record.getMessage()
            for record in caplog.records
        )

    async def test_another_node_may_ask_for_weights_only(
        self, cluster: Cluster, node: IdentityFile, ports: dict[str, str], tmp_path: Path
    ) -> None:
        wanted = Wanted("demo", "0" * 64)
        other = cluster.joined(tmp_path / "other")
        async with NodeClient(ports["agent"], other) as client:
            assert await client.has(wanted) is None
            with pytest.raises(ModelUnavailable, match="this machine has no demo"):
                await client.manifest(wanted, lambda _: None)
            with pytest.raises(ModelUnavailable, match="this machine has no demo"):
                await client.read_chunk(wanted, "config.json", 0, 1)
            for call in (client.describe(), client.orphans(), client.stop("secret 1", 1)):
                with pytest.raises(NotAuthorized, match="only a coordinator may call this"):
                    await call
        async with NodeClient(ports["agent"], foreign(cluster, tmp_path / "f")) as client:
            with pytest.raises((NotAuthorized, NodeUnreachable)):
                await client.has(wanted)

    async def test_the_epochs_secret_is_asked_for_beside_the_certificate(
        self, cluster: Cluster, node: IdentityFile, ports: dict[str, str]
    ) -> None:
        own = node.current().name.id
        with pytest.raises(NotAuthorized, match="tandem-secret is wrong"):
            async with connect(ports["engine"], "wrong", HELLO, cluster.trust.identity, own):
                pass
        async with connect(ports["engine"], SECRET, HELLO, cluster.trust.identity, own):
            pass

    async def test_a_coordinators_certificate_joins_nothing(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        with pytest.raises(NotAuthorized, match="only a node may call this"):
            await anext(
                join(
                    cluster.registry.address,
                    description(cluster.trust.identity),
                    cluster.trust.identity,
                )
            )

    async def test_a_node_is_not_taken_for_the_coordinator(
        self, cluster: Cluster, node: IdentityFile, ports: dict[str, str], tmp_path: Path
    ) -> None:
        other = cluster.joined(tmp_path / "other")
        with pytest.raises(NodeUnreachable, match="Verification"):
            await anext(join(ports["agent"], description(other), other))

    async def test_a_node_is_not_taken_for_another(
        self, cluster: Cluster, node: IdentityFile, tmp_path: Path
    ) -> None:
        other = cluster.joined(tmp_path / "other").current().name.id
        async with agent_of(node) as (agent, address):
            agent._node_id = other
            with pytest.raises(NodeUnreachable, match="Verification"):
                async with dial(address, cluster.trust, 1):
                    pass
        async with undisturbed(cluster, node):
            agent = make_agent()
            agent._node_id, agent.address = other, "127.0.0.2:7000"
            with pytest.raises(NotAuthorized, match=f"announces itself as {other}"):
                await anext(join(cluster.registry.address, agent.describe(), node))

    async def test_a_captured_hello_is_worth_nothing(
        self, cluster: Cluster, node: IdentityFile, tmp_path: Path
    ) -> None:
        third = cluster.joined(tmp_path / "third")
        token = JoinToken.parse(cluster.token(reusable=True))
        async with undisturbed(cluster, node):
            async with tapped(cluster.registry.address) as tap:
                async with aclosing(join(tap.address, description(third), third)) as events:
                    assert isinstance(await anext(events), Welcome)
                await wait_for(lambda: len(cluster.members.now) == 1)
            cluster.members.joined -= 1
            joined = cluster.members.joined
            assert len(tap.heard) > 1000
            await send(cluster.registry.address, bytes(tap.heard))
            assert cluster.members.joined == joined
        host, port = security.split_address(cluster.enrollment)
        async with tapped(cluster.enrollment) as tap:
            at = security.split_address(tap.address)[1] - 2
            await enroll(f"127.0.0.4:{at}", token, "late")
            nodes = len(cluster.authority.nodes())
            assert str(token).encode() not in tap.heard
        await send(f"{host}:{port}", bytes(tap.heard))
        assert len(cluster.authority.nodes()) == nodes


def calls(channel: grpc.aio.Channel) -> list[Callable[[], Awaitable[Any]]]:
    """What an intruder might ask for."""
    registry, node = node_pb2_grpc.RegistryStub(channel), node_pb2_grpc.NodeStub(channel)
    return [
        lambda: registry.Renew(node_pb2.RenewRequest(), timeout=5),
        lambda: node.Describe(node_pb2.DescribeRequest(), timeout=5),
    ]


class TestProving:
    """Who advertises a cluster may be anybody, and can know all that its certificates say."""

    async def test_a_coordinator_can(self, cluster: Cluster) -> None:
        await prove(cluster.registry.address, JoinToken.parse(cluster.token()).fingerprint)

    @pytest.mark.parametrize(
        ("who", "why"),
        [
            ("coordinator of another cluster", "of another cluster"),
            ("node of this cluster", "not valid: Hostname mismatch"),
            ("expired", "not valid: certificate has expired"),
            ("signed by itself", "not valid: certificate signature failure"),
        ],
    )
    async def test_nobody_else_can(
        self, cluster: Cluster, tmp_path: Path, who: str, why: str
    ) -> None:
        wanted = JoinToken.parse(cluster.token()).fingerprint
        liar = Authority.open(tmp_path / "liar")
        liar.renew_own()
        match who:
            case "node of this cluster":
                shown = cluster.joined(tmp_path / "w")
            case "expired":
                shown = forged(cluster, tmp_path / "w", days=-0.01, role=Role.COORDINATOR)
            case "signed by itself":
                shown = posing(cluster, tmp_path / "w")
            case _:
                shown = IdentityFile(liar.folder / "coordinator.json")
        port = free_port("127.0.0.1")
        server = await EnrollmentServer.start("127.0.0.1", port + 2, shown, liar)
        with pytest.raises(NotAuthorized, match=why):
            await prove(f"127.0.0.1:{port}", wanted)
        await server.stop()

    async def test_nor_who_does_not_answer(self, cluster: Cluster) -> None:
        with pytest.raises(NodeUnreachable):
            await prove(f"127.0.0.1:{free_port('127.0.0.1')}", b"")


class TestRevoking:
    async def test_it_is_refused_by_name(
        self, cluster: Cluster, node: IdentityFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = node.current().name.id
        cluster.authority.revoke_node(name)
        for call in (
            anext(join(cluster.registry.address, description(node), node)),
            renew(node, cluster.registry.address),
        ):
            caplog.clear()
            with pytest.raises(NotAuthorized, match=f"{name} was revoked"):
                await call
            assert f"{name} was revoked" in caplog.text
        assert cluster.members.joined == 0

    async def test_a_member_is_let_go_of(self, cluster: Cluster, node: IdentityFile) -> None:
        """By another process than the coordinator's, as `tandem node revoke` is."""
        name = node.current().name.id
        async with aclosing(join(cluster.registry.address, description(node), node)) as events:
            await anext(events)
            Authority.open(cluster.authority.folder).revoke_node(name)
            with pytest.raises(NotAuthorized, match=f"{name} was revoked"):
                async with asyncio.timeout(5):
                    async for _ in events:
                        pass
        assert cluster.members.now == []

    async def test_it_is_not_called_either(self, cluster: Cluster, node: IdentityFile) -> None:
        async with agent_of(node) as (_, address):
            cluster.authority.revoke_node(node.current().name.id)
            with pytest.raises(NotAuthorized, match="was revoked"):
                async with dial(address, cluster.trust, 1):
                    pass

    async def test_other_machines_give_it_nothing_more(
        self,
        cluster: Cluster,
        node: IdentityFile,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What it could read a moment ago, with a certificate that is valid still."""
        other, third = cluster.joined(tmp_path / "other"), cluster.joined(tmp_path / "third")
        name = other.current().name.id
        async with AsyncExitStack() as stack:
            _, address = await stack.enter_async_context(agent_of(node))
            await stack.enter_async_context(dial(address, cluster.trust, 1))
            client = await stack.enter_async_context(NodeClient(address, other))
            assert await config_of(client)
            Authority.open(cluster.authority.folder).revoke_node(name)
            await is_refused(client, name)
            for call in (client.has(DEMO), client.manifest(DEMO, lambda _: None)):
                with pytest.raises(NotAuthorized, match=f"{name} was revoked"):
                    await call
            assert any(
                record.getMessage().startswith("refused a call from 127.0.0.1:")
                and record.getMessage().endswith(f"{name} was revoked")
                for record in caplog.records
            )
            async with NodeClient(address, third) as well:
                assert await config_of(well)

    async def test_a_machine_that_comes_later_knows_too(
        self, cluster: Cluster, node: IdentityFile, tmp_path: Path
    ) -> None:
        other = cluster.joined(tmp_path / "other")
        cluster.authority.revoke_node(other.current().name.id)
        async with agent_of(node) as (_, address), NodeClient(address, other) as client:
            assert await config_of(client)  # nobody has called that agent yet
            async with dial(address, cluster.trust, 1):
                await is_refused(client, other.current().name.id)


class TestRenewing:
    async def test_at_half_of_its_life_and_without_a_restart(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        name = cluster.joined(tmp_path / "a").current().name.id
        old = forged(cluster, tmp_path / "b", days=14.9, name=name)
        before = old.current()
        lines: list[str] = []
        async with AsyncExitStack() as stack:
            _, address = await stack.enter_async_context(agent_of(old))
            client = await stack.enter_async_context(NodeClient(address, cluster.trust.identity))
            await client.describe()
            events = await stack.enter_async_context(aclosing(client.launch(spec("ready"))))
            await until(events, Ready)
            renewing = asyncio.create_task(keep_renewed(old, None, lines.append))
            await wait_for(lambda: old.current() is not before)
            renewing.cancel()
            after = old.current()
            assert after.name == before.name and after.key != before.key
            assert after.expires > before.expires + 86400 * 15
            # The agent shows the new one to whoever connects from now on; what was open goes on.
            async with dial(address, cluster.trust, 1) as member:
                assert member.description.node_id == name
            cluster.trust.identity.path.unlink()
            cluster.authority.renew_own()  # the caller has another certificate, too
            assert (await client.describe()).node_id == name
            assert len(client._channels) == 2
        assert lines == []

    async def test_a_young_one_is_left_alone(self, cluster: Cluster, node: IdentityFile) -> None:
        before = node.current()
        renewing = asyncio.create_task(keep_renewed(node, None, lambda line: None))
        await asyncio.sleep(0)
        renewing.cancel()
        assert node.current() is before

    async def test_trouble_is_said(self, cluster: Cluster, tmp_path: Path) -> None:
        unlisted = forged(cluster, tmp_path / "b", days=5)
        lines: list[str] = []
        renewing = asyncio.create_task(keep_renewed(unlisted, None, lines.append))
        await wait_for(lambda: lines)
        renewing.cancel()
        assert "could not be renewed" in lines[0] and "not one of this cluster's" in lines[0]

    async def test_an_answer_for_another_is_not_kept(
        self, cluster: Cluster, node: IdentityFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def answer(address: str, identity: IdentityFile, request: bytes) -> str:
            return cluster.joined(tmp_path / "other").current().certificate

        monkeypatch.setattr("cluster.wire.registry.renew", answer)
        before = node.current()
        with pytest.raises(NotAuthorized, match="for another key"):
            await renew(node, cluster.registry.address)
        assert node.current() is before
