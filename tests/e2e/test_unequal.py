"""A small and a large machine serve what does not fit on them in equal stages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import EngineState, Recipe
from cluster.coordinator.forming import Forming
from cluster.coordinator.local_agent import LocalAgent
from cluster.coordinator.members import Member, Members
from cluster.coordinator.paths import Paths
from cluster.coordinator.runner import Runner
from cluster.coordinator.share import Shares
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import DoesNotFit
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from cluster.core.view import ServedModel
from cluster.model.config import read_config
from cluster.model.digest import digest
from cluster.model.weights import tensor_bytes
from cluster.placement.fit import Model
from cluster.placement.group import Terms
from cluster.text.tokenizer import Tokenizer
from tests.e2e.cluster_process import free_port
from tests.e2e.random_models import make
from tests.unit.engine.driver import reference

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

LIMITS = Limits(sequences=1, kv_tokens=1024)
TERMS = Terms(context=512, sequences=1, kv_tokens=1024, parallel="pipeline")


def sizes_of(model: Model, members: Sequence[Member]) -> tuple[int, int]:
    """Bytes of a small and a large machine that have room for it in unequal stages only."""
    whole = sum(model.weights.by_layer)
    for percent in range(0, 2000, 10):
        small = model.weights.rest + whole * percent // 100
        usable = {members[0].id: small, members[1].id: small + whole * 30 // 100}
        forming = a_forming(model, usable)
        try:
            fitting = forming.fit(members)
        except DoesNotFit:
            continue
        if fitting.layers and fitting.model.context >= 64:
            return small, usable[members[1].id]
    raise AssertionError("no sizes need unequal stages")


def a_forming(model: Model, usable: dict[str, int], paths: Paths | None = None) -> Forming:
    served = ServedModel(id="qwen", context=512, created=1, demo=False)
    return Forming(model, TERMS, served, LIMITS, paths or Paths(), lambda member: usable[member.id])


def quiet(engines: Sequence[EngineState]) -> None:
    """Progress that nobody looks at."""


@asynccontextmanager
async def agents(members: Members) -> AsyncIterator[list[Member]]:
    """Two of them, which stand for machines."""
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(LocalAgent.run(free_port(), host, None, 1.0))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        yield [await members.call(address) for address in addresses]


async def test_from_members_to_text(tmp_path: Path) -> None:
    folder = make("qwen3_moe_12", tmp_path / "model")
    model = Model(read_config(folder), tensor_bytes(folder))
    served = ServedModel(id="qwen", context=512, created=1, demo=False)
    coordinator = Coordinator(served, limits=LIMITS, pacing=Pacing(), clock=SystemClock())
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        members = Members(coordinator.clock, None, tasks)
        async with agents(members) as both:
            small, large = sizes_of(model, both)
            usable = {both[0].id: small, both[1].id: large}
            paths = Paths()
            forming = a_forming(model, usable, paths)
            tokenizer = tasks.create_task(asyncio.to_thread(Tokenizer.load, folder))
            recipe = Recipe(str(folder), digest(folder), 1)
            share = Shares(members).new("qwen", 0, 1)
            runner = Runner(
                coordinator, tokenizer, share, paths, forming.fit, recipe, quiet, forming.refusal
            )
            running = tasks.create_task(runner.run())
            await runner.started.wait()
            group = coordinator.group
            assert group is not None
            layers = forming.fit(both).layers
            assert layers[0] < layers[1]
            assert [engine.member.id for engine in group.engines] == [each.id for each in both]
            held = [engine.weight_bytes for engine in group.engines]
            assert held == list(model.weights.by_rank(2, "pipeline", layers))
            prompt = tuple(range(40, 60))
            order = Order(prompt=prompt, sampling=Sampling(temperature=0.0), max_tokens=12)
            generation = coordinator.submit(order)
            assert sum([piece.tokens async for piece in generation]) > 0
            ids = list(generation.ids)
            assert ids == reference(load_model(folder)[0], list(prompt), len(ids))
            running.cancel()
            await asyncio.wait([running])
        for task in asyncio.all_tasks():
            if task.get_name().startswith("attend"):
                task.cancel()
