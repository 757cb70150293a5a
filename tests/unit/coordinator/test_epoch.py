from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.coordinator import epoch
from cluster.coordinator.epoch import EngineState, Place, Recipe, all_answer, open_epoch
from cluster.core.cluster import EngineEvent, LaunchSpec, Ready, ShardPlan, Started
from cluster.core.errors import NodeLost, NodeUnreachable, NotAuthorized
from cluster.core.ids import Epoch, Rank
from tests.conftest import wait_for

SPEC = LaunchSpec(Epoch(1), "secret", "demo", "", ShardPlan(1, Rank(0)))


@dataclass
class Client:
    """An agent that tells of an engine, and then can't be reached any more."""

    incarnation: int | None = 1
    """None: not there."""
    refuses: bool = False
    """A newer coordinator has asked for the engine."""
    calls: list[str] = field(default_factory=list)

    async def describe(self) -> Any:
        if self.incarnation is None:
            raise NodeUnreachable("the node agent does not answer")
        return SimpleNamespace(incarnation=self.incarnation)

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[EngineEvent]:
        yield Started(1)
        yield Ready("127.0.0.1:1", 0.1)
        raise NodeUnreachable("the connection broke")

    async def attach(self, secret: str, rank: Rank, incarnation: int) -> AsyncIterator[EngineEvent]:
        self.calls.append(f"attach {secret} {incarnation}")
        raise NodeUnreachable("the node agent does not answer")
        yield

    async def stop(self, secret: str, incarnation: int, **how: Any) -> int:
        self.calls.append(f"stop {secret} {incarnation}")
        if self.refuses:
            raise NotAuthorized("coordinator 5 was replaced by 6")
        return 1


class Busy(Client):
    """The engine is loading."""

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[EngineEvent]:
        yield Started(1)
        self.calls.append("launched")
        await asyncio.Event().wait()


class Machine(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def member(client: Client) -> Any:
    return Machine(client=client, description=SimpleNamespace(hostname="one", incarnation=1))


@pytest.mark.parametrize(("incarnation", "there"), [(1, True), (2, False), (None, False)])
async def test_whether_all_machines_are_there_as_before(
    incarnation: int | None, there: bool
) -> None:
    members = [member(Client()), member(Client(incarnation))]
    assert await all_answer(members) is there


async def test_an_agent_is_not_missed_while_steps_advance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(epoch, "REACH_SECONDS", 0.05)
    monkeypatch.setattr(epoch, "RETRY_SECONDS", 0.01)
    client, silent = Client(), 0.0
    engine = EngineState(Rank(0), member(client))
    ready = asyncio.get_running_loop().create_future()
    following = asyncio.create_task(
        epoch._follow(
            engine, SPEC, 5, ready, lambda: None, lambda _: None, lambda: silent, adopt=False
        )
    )
    await wait_for(lambda: len(client.calls) >= 10)  # 0.1 s at least
    assert ready.done() and not following.done()
    silent = 1.0
    with pytest.raises(NodeLost, match="rank 0 on one is gone"):
        await following
    assert set(client.calls) == {"attach secret 5"}


async def forming(client: Client) -> None:
    async with open_epoch(
        [Place(member(client), SPEC)],
        Recipe("demo", "", 5),
        lambda _: None,
        lambda _: None,
        lambda: 0.0,
    ):
        raise AssertionError("it never comes up")


async def test_who_may_not_stop_its_engines_is_told_that_it_was_replaced() -> None:
    client = Client(refuses=True)
    with pytest.raises(NotAuthorized, match="replaced by 6"):
        await forming(client)
    assert client.calls[-1] == "stop secret 5"


async def test_who_stops_in_order_is_not_bothered_with_it() -> None:
    client = Busy(refuses=True)
    task = asyncio.create_task(forming(client))
    await wait_for(lambda: client.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.calls == ["launched", "stop secret 5"]
