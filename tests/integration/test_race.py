"""Channel first: no token falls between a fast engine and a slow reader.

The engine answers a step before the call that sends it has returned, under randomised
interleavings of all tasks, over more than 10,000 requests.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.generation import Generation
from cluster.core.channel import ChannelTable, TokenChannel
from cluster.core.config import Limits
from cluster.core.ids import Epoch
from cluster.core.plan import Step
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from tests.integration.fakes import FakeRanks, answer, make_coordinator

ROUNDS = 21
REQUESTS = 500


async def read(generation: Generation, seed: random.Random, late: asyncio.Event | None) -> str:
    """What a reader sees that takes pieces with pauses, or only begins when `late` is set."""
    if late is not None:
        await late.wait()
    text: list[str] = []
    async for piece in generation:
        text.append(piece.text)
        for _ in range(seed.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
    return "".join(text)


async def one_round(coordinator: Coordinator, ranks: FakeRanks, seed: random.Random) -> None:
    """REQUESTS requests of random sizes; every third reader begins after all is computed."""
    late = asyncio.Event()
    expected: list[str] = []
    readers: list[asyncio.Task[str]] = []
    for number in range(REQUESTS):
        prompt = (*(seed.randrange(32, 1000) for _ in range(seed.randrange(1, 9))), number)
        length = seed.randrange(1, 12)
        expected.append("".join(map(chr, answer(prompt, length))))
        generation = coordinator.submit(Order(prompt, Sampling(temperature=0), length))
        waits_for = late if number % 3 == 0 else None
        readers.append(asyncio.create_task(read(generation, seed, waits_for)))
        if seed.random() < 0.3:
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while coordinator.scheduler is not None and not coordinator.scheduler.idle:
            await asyncio.sleep(0)
        late.set()
        texts = await asyncio.gather(*readers)
    assert texts == expected


async def run(rounds: int, channels: ChannelTable, ranks: FakeRanks, seed: int) -> Coordinator:
    """`rounds` rounds on one coordinator; raises what went wrong in any of them."""
    limits = Limits(parked=0, queue=2 * REQUESTS, sequences=64)
    coordinator = make_coordinator(limits=limits, channels=channels)
    driving = asyncio.create_task(drive(coordinator, Epoch(1), ranks, trimmable=True))
    while coordinator.scheduler is None:
        await asyncio.sleep(0)
    try:
        for number in range(rounds):
            await one_round(coordinator, ranks, random.Random(f"{seed}-{number}"))
    finally:
        driving.cancel()
        await asyncio.wait([driving])
    return coordinator


@pytest.mark.anyio
async def test_every_token_of_every_request_arrives_in_order() -> None:
    table = ChannelTable()
    assert ROUNDS * REQUESTS >= 10_000
    await run(ROUNDS, table, FakeRanks(random.Random(7)), seed=1)
    assert table.orphan_tokens == 0
    assert len(table) == 0


@pytest.mark.anyio
async def test_a_reader_that_begins_a_second_later_gets_all() -> None:
    coordinator = make_coordinator()
    driving = asyncio.create_task(drive(coordinator, Epoch(1), FakeRanks(), trimmable=True))
    await asyncio.sleep(0)
    prompts = [(number, 40) for number in range(100)]
    greedy = Sampling(temperature=0)
    generations = [coordinator.submit(Order(p, greedy, 50)) for p in prompts]
    await asyncio.sleep(1.0)  # the second that the name promises
    for prompt, generation in zip(prompts, generations, strict=True):
        text = await read(generation, random.Random(0), None)
        assert text == "".join(map(chr, answer(prompt, 50)))
        assert generation.finish is Finish.LENGTH
        assert generation.usage.completion_tokens == 50
    driving.cancel()
    await asyncio.wait([driving])


class LateTable(ChannelTable):
    """The mutation: a channel is registered only after the step that names it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[TokenChannel] = []

    def register(self, channel: TokenChannel) -> None:
        self.held.append(channel)

    def register_held(self, count: int) -> None:
        """Register the `count` that have been held the longest."""
        for channel in self.held[:count]:
            super().register(channel)
        del self.held[:count]


class LateRanks(FakeRanks):
    """Sends a step and only then registers."""

    def __init__(self, table: LateTable) -> None:
        super().__init__(random.Random(7))
        self._table = table

    async def send(self, step: Step) -> None:
        named = len(self._table.held)
        await super().send(step)
        self._table.register_held(named)


@pytest.mark.anyio
async def test_registering_after_the_send_loses_tokens() -> None:
    """The test above is able to fail: with the order turned around, tokens are lost."""
    table = LateTable()
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(5):
            await run(1, table, LateRanks(table), seed=1)
    assert table.orphan_tokens > 0
