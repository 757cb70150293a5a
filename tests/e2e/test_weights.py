"""A machine without the model gets it, or its part of it, and the group gives the same text."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.utils import load_model

from cluster import demo
from cluster.core.cluster import Hello, LaunchSpec, Loading, Ready, ShardPlan
from cluster.core.ids import Rank
from cluster.core.versions import versions
from cluster.model.cut import read_cut
from cluster.model.digest import digest
from cluster.node.agent import Agent
from cluster.wire.engine_client import connect
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from tests.e2e.engines import DEADLINE, SECRET, execute, free_ports
from tests.unit.engine.driver import EPOCH, Plan, compare, reference, texts

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

MODEL = "/nowhere/a-model"
LENGTH = 24


@asynccontextmanager
async def agents(tmp_path: Path) -> AsyncIterator[list[Agent]]:
    """Two machines; only the first has the model."""
    folder = demo.folder()
    shutil.copytree(folder, tmp_path / "0" / digest(folder))
    async with AsyncExitStack() as stack:
        started = []
        for number in range(2):
            described = await Agent.on_this_machine("127.0.0.1", orphan_grace=0.0)
            node = described.describe()
            agent = Agent(
                "127.0.0.1",
                hardware=described._hardware,
                addresses=node.addresses,
                blas=node.blas,
                orphan_grace=0.0,
                models=tmp_path / str(number),
            )
            server = await NodeServer.start("127.0.0.1", 0, None, agent)
            agent.address = server.address
            stack.push_async_callback(server.stop)
            stack.push_async_callback(agent.close)
            started.append(agent)
        yield started


async def launched(agent: Agent, spec: LaunchSpec, told: list[str], ready: Any) -> None:
    """Keep an engine until cancelled."""
    async with NodeClient(agent.address) as client, aclosing(client.launch(spec)) as events:
        async for event in events:
            if isinstance(event, Loading):
                told.append(event.what)
            if isinstance(event, Ready):
                ready.set_result(event.endpoint)


async def text(specs: list[LaunchSpec], started: list[Agent], told: list[list[str]]) -> list[int]:
    """What the group says to one prompt."""
    loop = asyncio.get_running_loop()
    ready = [loop.create_future() for _ in specs]
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(launched(*each))
            for each in zip(started, specs, told, ready, strict=True)
        ]
        endpoints = await asyncio.gather(*ready)
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    connect(
                        endpoint, SECRET, Hello(EPOCH, 1, versions(), spec.model_digest, spec.plan)
                    )
                )
                for endpoint, spec in zip(endpoints, specs, strict=True)
            ]
            plan = Plan()
            plan.prefill(0, PROMPT)
            plan.decode(0, iterations=LENGTH)
            results = await execute(clients, plan.steps)
        for task in tasks:
            task.cancel()
    return texts(plan.steps, results[0])[0]


PROMPT = [random.Random(3).randrange(200) for _ in range(40)]


@pytest.mark.parametrize("room", ["for all of it", "for a part"])
async def test_two_ranks_on_one_copy(
    tmp_path: Path, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = digest(demo.folder())
    if room == "for a part":
        usage = SimpleNamespace(free=(1 << 30) + (6 << 20))  # and the model has 8 MB
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    async with agents(tmp_path) as started:
        ring = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
        specs = [
            LaunchSpec(
                EPOCH, SECRET, MODEL, wanted, ShardPlan(2, Rank(rank), "tensor", "ring"), ring,
                threads=1, sources=(started[0].address,),
            )
            for rank in range(2)
        ]  # fmt: skip
        told: list[list[str]] = [[], []]
        ids = await text(specs, started, told)
        assert not {"fetching weights", "hashing weights"} & set(told[0])
        assert {"fetching weights", "weights"} <= set(told[1])
    model: Any = load_model(demo.folder())[0]
    assert len(ids) == LENGTH + 1
    compare(model, PROMPT, ids, reference(model, PROMPT, LENGTH + 1))
    here = {path.name: path for path in (tmp_path / "1").iterdir() if path.suffix != ".lock"}
    if room == "for a part":
        cut = read_cut(here.pop(f"{wanted}-tensor-1-of-2"))
        assert cut is not None and cut.fits(wanted, specs[1].plan)
        assert "cutting weights" in told[1]
        assert not here
        assert not list((tmp_path / "0" / "cuts").iterdir())
    else:
        assert digest(here[wanted]) == wanted
