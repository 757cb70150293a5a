"""A fleet whose engines cost nothing: its machines have memory, its groups run on ModelRanks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import demo
from cluster.coordinator import fleet as module
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.epoch import Group, Recipe
from cluster.coordinator.fleet import Fleet
from cluster.coordinator.members import Member, Members
from cluster.coordinator.paths import Paths
from cluster.coordinator.runner import Fitting
from cluster.coordinator.served import Offer
from cluster.coordinator.share import Share
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import DoesNotFit, EngineCrashed, EpochEnded, SetupError
from cluster.core.ids import Epoch
from cluster.core.plan import Step
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from cluster.core.view import ServedModel
from cluster.membership.choice import choose
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.integration.fakes import FakeTokenizer, ModelRanks
from tests.integration.test_node_agent import make_agent

GREEDY = Sampling(temperature=0.0)


def order(text: str, tokens: int = 8) -> Order:
    return Order(tuple(map(ord, text)), GREEDY, tokens)


class FakeEngines:
    """All groups of all models: what they do, and what has been done with them."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        """Models, as their groups begin to form."""
        self.running: dict[tuple[str, int], ModelRanks] = {}
        """By model and replica."""
        self.gate = asyncio.Event()
        """Cleared, no group comes up."""
        self.gate.set()
        self.slow = asyncio.Event()
        """Cleared, no step is answered."""
        self.slow.set()
        self.error: SetupError | None = None
        """With which groups fail to form."""
        self.poison: tuple[int, ...] | None = None
        """Whoever computes a prompt that begins so crashes."""
        self.crashed: list[int] = []
        """Replicas that have."""
        self.peak = 0
        """Most bytes that were taken at once."""

    def runner(
        self,
        coordinator: Coordinator,
        tokenizer: asyncio.Task[Tokenizer],
        share: Share,
        paths: Paths,
        fit: Callable[[Sequence[Member]], Fitting],
        recipe: Recipe,
        progress: object,
        refusal: object,
        changed: Callable[[], None],
    ) -> FakeRunner:
        """In place of Runner."""
        return FakeRunner(self, coordinator, tokenizer, share, fit, changed)


class Ranks(ModelRanks):
    def __init__(self, engines: FakeEngines, replica: int) -> None:
        super().__init__()
        self.engines = engines
        self.replica = replica
        self.gate = engines.slow

    async def send(self, step: Step) -> None:
        poison = self.engines.poison
        if poison and any(chunk.tokens[: len(poison)] == poison for chunk in step.chunks):
            self.engines.crashed.append(self.replica)
            self.failure = EngineCrashed("out of memory")
        await super().send(step)


class FakeRunner:
    def __init__(
        self,
        engines: FakeEngines,
        coordinator: Coordinator,
        tokenizer: asyncio.Task[Tokenizer],
        share: Share,
        fit: Callable[[Sequence[Member]], Fitting],
        changed: Callable[[], None],
    ) -> None:
        self.engines = engines
        self.coordinator = coordinator
        self.tokenizer = tokenizer
        self.share = share
        self.fit = fit
        self.changed = changed
        self.started = asyncio.Event()

    def does_without(self, node: object) -> None:
        return None

    def regroup(self) -> None:
        pass

    def links(self) -> tuple[()]:
        return ()

    def held_on(self, node_id: str) -> int:
        group = self.coordinator.group
        return group.held_on(node_id) if group is not None else 0

    async def run(self) -> None:
        key = self.share.model, self.share.replica
        try:
            while True:
                try:
                    await self.epoch(key)
                except* EpochEnded:
                    self.coordinator.live.blame()
                    self.coordinator.settled = True
                    self.changed()
        finally:
            self.share.let_go()

    async def epoch(self, key: tuple[str, int]) -> None:
        engines, members = self.engines, self.share.all.members
        now = self.coordinator.clock.now()

        def fit(nodes: Any) -> Fitting:
            return self.fit(self.share.left_of(members.of(nodes)))

        nodes, fitting = choose(self.share.usable(now), fit)
        self.share.take(members.of(nodes), fitting.kind, fitting.model.rank_bytes)
        taken = sum(self.share.all.bytes_on(node.id, []) for node in nodes)
        engines.peak = max(engines.peak, taken)
        engines.loads.append(key[0])
        number = self.share.all.numbers.next()
        self.share.secret = f"secret {number}"
        await engines.gate.wait()
        if engines.error is not None:
            raise engines.error
        coordinator = self.coordinator
        coordinator.tokenizer = await self.tokenizer
        coordinator.limits, coordinator.model = fitting.limits, fitting.model
        ranks = Ranks(engines, key[1])
        state = SimpleNamespace(rank=0, member=members.of(nodes)[0], weight_bytes=1, endpoint="",
                                pid=1, rss_bytes=0)  # fmt: skip
        told: Any = SimpleNamespace(memory_bytes=[5], peak_bytes=[5], last_seq=[0])
        coordinator.group = Group(Epoch(number), "none", [state], told, True, 0)  # type: ignore[list-item]
        engines.running[key] = ranks
        self.started.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.tell())
                await drive(coordinator, Epoch(number), ranks, trimmable=True)
        finally:
            del engines.running[key]
            coordinator.group = None
            self.share.secret = ""

    async def tell(self) -> None:
        self.changed()


@dataclass(frozen=True)
class Sized:
    """A model that takes `size` bytes on each rank."""

    name: str
    size: int

    def fit(self, members: Sequence[Member]) -> Fitting:
        name, size = self.name, self.size
        usable = min(member.description.usable_bytes // member.ranks for member in members)
        if size > usable:
            raise DoesNotFit(f"it needs {size} bytes, and there are {usable}")
        world = sum(member.ranks for member in members)
        kind = "tensor" if world > 1 else "single"
        limits = Limits(parked=8, queue=64)
        return Fitting(kind, limits, ServedModel(name, 4096, 0, demo=False, rank_bytes=size))

    def refusal(self, members: Sequence[Member], error: SetupError) -> SetupError:
        return error


def offer(name: str, size: int) -> Offer:
    """A model of `size` bytes on each rank."""
    model = ServedModel(name, 4096, 0, demo=False)
    recipe = Recipe(name, "", 1)
    return Offer(model, demo.folder(), recipe, lambda paths: Sized(name, size), size)


@asynccontextmanager
async def fleet_of(
    monkeypatch: pytest.MonkeyPatch,
    offers: Sequence[Offer],
    *,
    memory: int = 10,
    ranks: int = 1,
    tokenizer: Any = None,
    **options: Any,
) -> AsyncIterator[tuple[Fleet, FakeEngines]]:
    """A fleet whose first model is loaded, on one machine with `memory` bytes."""
    engines = FakeEngines()
    monkeypatch.setattr(module, "Runner", engines.runner)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)
    limits = Limits(parked=8, queue=64)
    fleet = Fleet(offers, limits=limits, pacing=Pacing(), clock=SystemClock(), **options)
    text: Any = tokenizer or FakeTokenizer()
    for served in fleet:
        served._tokenizer = text
        for group in served.groups:
            group.tokenizer = text
    async with asyncio.TaskGroup() as tasks:
        members = Members(fleet.clock, None, tasks)
        description = make_agent().describe()
        one = Member(None, _with(description, memory), ranks)  # type: ignore[arg-type]
        members.roster.arrive(one.id, 1, fleet.clock.now() + 1e6, ranks=ranks, name="here")
        members._members[one.id] = one
        running = tasks.create_task(fleet.run(members, lambda engines: None))
        try:
            await wait_for(lambda: fleet.started.is_set() or running.done())
            if running.done():
                running.result()
            yield fleet, engines
            for served in fleet:
                for group in served.groups:
                    await wait_for(lambda group=group: not group.live.journal)  # type: ignore[misc]
                    assert not len(group.live.channels) and not group.live.channels.orphan_tokens
        finally:
            running.cancel()
            await asyncio.wait([running])


def _with(description: Any, memory: int) -> Any:
    return replace(description, usable_bytes=memory, cores=2, agent_address="127.0.0.1:1")
