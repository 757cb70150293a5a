"""An agent is asked for what it finds at its machine; all are asked at once, by the coordinator."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from api.app import create_app
from cluster.coordinator.members import Member
from cluster.coordinator.survey import survey as ask_all
from cluster.core.errors import BadConfiguration, LaunchFailed, NodeUnreachable, ProtocolError
from cluster.core.facts import Facts
from cluster.core.versions import versions
from cluster.node import surveyor
from cluster.node.agent import Agent
from cluster.node.survey import survey
from cluster.text.tokenizer import Tokenizer
from cluster.wire import node_client
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from tests.conftest import wait_for
from tests.integration.test_node_agent import make_agent
from tests.unit.api.fake import FakeCoordinator

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return survey(tmp_path_factory.mktemp("models"))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = make_agent(models=tmp_path, kv_dir=str(tmp_path / "kv"))
    yield agent
    await agent.close()


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[NodeClient]:
    server = await NodeServer.start("127.0.0.2", 0, None, agent)
    agent.address = server.address
    async with NodeClient(server.address) as client:
        yield client
    await server.stop()


class Slow:
    """A survey that takes until it is let go."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.calls: list[tuple[Path, Path | None]] = []
        self.threads: set[int | None] = set()
        self.go = threading.Event()

    def __call__(self, models: Path, prefixes: Path | None) -> Facts:
        self.calls.append((models, prefixes))
        self.threads.add(threading.get_ident())
        assert self.go.wait(30)
        return self.facts


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, here: Facts) -> Iterator[Slow]:
    slow = Slow(here)
    monkeypatch.setattr(surveyor, "survey", slow)
    yield slow
    slow.go.set()


async def test_what_an_agent_finds(client: NodeClient, tmp_path: Path) -> None:
    facts, ahead, within = await client.survey()
    assert facts.versions == versions()
    assert [(disk.use, disk.path) for disk in facts.disks] == [
        ("models", str(tmp_path)),
        ("prefixes", str(tmp_path / "kv")),
    ]
    assert facts.heard is None  # nobody is there to be heard on loopback
    assert abs(ahead) <= within + 0.001  # it is one clock
    assert 0 < within < 1


async def test_a_survey_holds_nothing_up_and_is_for_all_who_ask_meanwhile(
    client: NodeClient, slow: Slow, here: Facts, tmp_path: Path
) -> None:
    asking = [asyncio.create_task(client.survey()) for _ in range(3)]
    await wait_for(lambda: slow.calls)
    assert (await client.describe()).hostname == "host"
    with pytest.raises(NodeUnreachable, match="did not answer in time"):
        await client.survey(seconds=0.1)
    asking[0].cancel()
    slow.go.set()
    told = await asyncio.gather(*asking[1:])
    assert [facts for facts, _, _ in told] == [here, here]
    # Those who left have ended nothing, and it was not on the event loop.
    assert slow.calls == [(tmp_path, tmp_path / "kv")]
    assert threading.get_ident() not in slow.threads
    await client.survey()
    assert len(slow.calls) == 2


async def test_how_long_it_took_is_no_difference_of_clocks(
    client: NodeClient, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = asyncio.create_task(client.survey())
    await wait_for(lambda: slow.calls)
    began = time.monotonic()
    await wait_for(lambda: time.monotonic() > began + 0.3)
    slow.go.set()
    _, ahead, within = await asking
    assert abs(ahead) < 0.1
    assert within < 0.1


async def test_closing_while_it_looks(agent: Agent, client: NodeClient, slow: Slow) -> None:
    asking = asyncio.create_task(client.survey())
    await wait_for(lambda: slow.calls)
    await agent.close()
    await agent.close()
    with pytest.raises(LaunchFailed, match="is stopping"):
        await asking
    with pytest.raises(LaunchFailed, match="is stopping"):
        await client.survey()


async def test_what_goes_wrong_is_told(client: NodeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(models: Path, prefixes: Path | None) -> Facts:
        raise BadConfiguration("TANDEM_BLAS names nothing")

    monkeypatch.setattr(surveyor, "survey", refuse)
    with pytest.raises(BadConfiguration, match="TANDEM_BLAS"):
        await client.survey()


async def test_more_than_facts_can_be(
    client: NodeClient, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.go.set()
    monkeypatch.setattr(node_client, "MOST_FACTS", 100)
    with pytest.raises(ProtocolError, match="100 are many"):
        await client.survey()


def member(name: str, answer: Callable[[], Any]) -> Member:
    description: Any = SimpleNamespace(node_id=name, hostname=name, agent_address=f"{name}:1")
    client: Any = SimpleNamespace(survey=answer)
    return Member(client, description, 1)


async def test_all_are_asked_at_once_and_the_reason_of_each_silence_is_kept(here: Facts) -> None:
    asked = asyncio.Barrier(3)

    async def good() -> tuple[Facts, float, float]:
        await asked.wait()
        return here, 1.5, 0.25

    async def dead() -> None:
        await asked.wait()
        raise NodeUnreachable("it did not answer in time")

    async def strange() -> None:
        await asked.wait()
        raise ProtocolError("it tells no time")

    async with asyncio.timeout(5):
        a, b, c = await ask_all([member("a", good), member("b", dead), member("c", strange)])
    assert (a.node_id, a.facts, a.error, a.ahead, a.ahead_within) == ("a", here, "", 1.5, 0.25)
    assert (b.agent_address, b.facts, b.error) == ("b:1", None, "it did not answer in time")
    assert (c.facts, c.error) == (None, "it tells no time")
    assert await ask_all([]) == ()


@pytest.mark.parametrize(("caller", "status"), [("127.0.0.1", 200), ("10.0.0.9", 401)])
async def test_over_http_on_the_machine_that_serves_only(
    tokenizer: Tokenizer, caller: str, status: int
) -> None:
    app = create_app(FakeCoordinator(tokenizer))
    transport = httpx.ASGITransport(app, client=(caller, 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get("/cluster/facts")
        drained = await http.post("/cluster/drain", json={"node": "studio-2"})
    assert answer.status_code == drained.status_code == status
    if status == 200:
        (machine,) = answer.json()["machines"]
        assert (machine["node_id"], machine["facts"]) == ("studio-2-1", None)
        assert machine["error"] == "silent"
