"""Workers that joined by themselves: attended to while they are members, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Self

import pytest

from cluster.coordinator import members as module
from cluster.coordinator.members import Members
from cluster.core.clock import ManualClock
from cluster.core.cluster import NodeDescription
from cluster.core.errors import NodeUnreachable, VersionMismatch
from tests.conftest import wait_for
from tests.integration.test_node_agent import make_agent

ADDRESS = "127.0.0.2:7000"


def description(**changes: Any) -> NodeDescription:
    agent = make_agent()
    agent.address = ADDRESS
    return replace(agent.describe(), **{"boot_id": "b", "incarnation": 1, **changes})


class Machine:
    """Stands at ADDRESS. `there` is the agent that answers."""

    def __init__(self) -> None:
        self.there: NodeDescription | None = None
        self.asked = 0

    def client(self, address: str, identity: object) -> Client:
        assert address == ADDRESS
        return Client(self)


class Client:
    """In place of NodeClient."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.address = ADDRESS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def describe(self) -> NodeDescription:
        self._machine.asked += 1
        if self._machine.there is None:
            raise NodeUnreachable("the node agent can't be reached")
        return self._machine.there

    async def lease(self) -> AsyncIterator[None]:
        agent = self._machine.there
        while agent is not None and self._machine.there is agent:
            yield
            await asyncio.sleep(0.005)
        raise NodeUnreachable("the node agent gave no sign of life")


class Cluster:
    """The members of a coordinator, and a machine that may be one."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.clock = ManualClock()
        self.members = Members(self.clock, None, tasks)
        self.machine = Machine()

    @property
    def ids(self) -> list[str]:
        return [node.id for node in self.members.roster.usable(self.clock.now())]

    async def asked_again(self) -> None:
        """Return once the machine was called twice more."""
        before = self.machine.asked
        await wait_for(lambda: self.machine.asked >= before + 2)


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.005)
    async with asyncio.TaskGroup() as tasks:
        work: set[asyncio.Task[Any]] = set()

        class Owner:
            def create_task(self, *arguments: Any, **options: Any) -> asyncio.Task[Any]:
                work.add(task := tasks.create_task(*arguments, **options))
                return task

        cluster = Cluster(Owner())  # type: ignore[arg-type]
        monkeypatch.setattr(module, "NodeClient", cluster.machine.client)
        yield cluster
        for task in work:
            task.cancel()


async def test_one_that_was_started_again_but_is_slow_to_answer(cluster: Cluster) -> None:
    one = cluster.machine.there = description(node_id="one")
    with cluster.members.member(one):
        await wait_for(lambda: cluster.ids == ["one"])
        cluster.machine.there = None  # it was killed
        await cluster.asked_again()
    again = replace(one, incarnation=2, instance="later")
    with cluster.members.member(again):  # it says so, before it is heard at its address
        cluster.clock.advance(60)
        await cluster.asked_again()
        assert cluster.ids == []
        cluster.machine.there = again
        await wait_for(lambda: cluster.ids == ["one"])


async def test_one_that_comes_back_as_another_machine(cluster: Cluster) -> None:
    one = cluster.machine.there = description(node_id="one")
    with cluster.members.member(one):
        await wait_for(lambda: cluster.ids == ["one"])
    cluster.machine.there = None
    await cluster.asked_again()
    cluster.clock.advance(60)
    await wait_for(lambda: len(cluster.members.roster) == 0)
    other = cluster.machine.there = description(node_id="other")
    with cluster.members.member(other):
        for _ in range(3):
            await wait_for(lambda: cluster.ids == ["other"])
            cluster.clock.advance(4)


async def test_one_that_goes_is_forgotten(cluster: Cluster) -> None:
    one = cluster.machine.there = description(node_id="one")
    with cluster.members.member(one):
        await wait_for(lambda: cluster.ids == ["one"])
    cluster.clock.advance(4)  # its stream has ended, but it lives
    await wait_for(lambda: cluster.members.roster.find("one").heard == cluster.clock.now())
    cluster.machine.there = None
    await cluster.asked_again()
    cluster.clock.advance(60)
    await wait_for(lambda: len(cluster.members.roster) == 0)
    assert not cluster.members._attended and not cluster.members._joined


async def test_one_of_other_versions_is_remembered_until_it_has_ours(cluster: Cluster) -> None:
    ours = description(node_id="one")
    other = replace(ours, versions=replace(ours.versions, mlx="0.0.1"))
    cluster.machine.there = other
    with cluster.members.member(other):
        await wait_for(lambda: cluster.members.turned_away)
        (away,) = cluster.members.turned_away
        assert (away.node_id, away.agent_address, away.facts) == ("one", ADDRESS, None)
        assert "0.0.1 there" in away.error
        cluster.machine.there = ours
        await wait_for(lambda: cluster.ids == ["one"])
        assert cluster.members.turned_away == ()


async def test_those_refused_are_few_and_forgotten(cluster: Cluster) -> None:
    for number in range(2 * module.MOST_REFUSED):
        node = replace(description(), agent_address=f"10.0.0.{number}:8644", hostname="h" * 999)
        cluster.members.refused(node, VersionMismatch("tandem 1 here, 2 there"))
    away = cluster.members.turned_away
    assert len(away) == module.MOST_REFUSED
    assert away[-1].agent_address == f"10.0.0.{2 * module.MOST_REFUSED - 1}:8644"
    assert len(away[-1].hostname) == 100
    cluster.clock.advance(module.REFUSED_SECONDS + 1)
    assert cluster.members.turned_away == ()
