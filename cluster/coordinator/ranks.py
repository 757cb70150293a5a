"""All engines of an epoch as one: a step goes to every rank, a result counts when all agree."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from cluster.core.cluster import EngineFacts
from cluster.core.errors import DigestMismatch, EpochEnded, StepRefused
from cluster.core.ids import Entry
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.wire.engine_client import EngineClient, encode


class StepPort(Protocol):
    """What executes steps, as the coordinator sees it."""

    async def send(self, step: Step) -> None:
        """Hand a step to every rank, in order. Raises EpochEnded."""
        ...

    @property
    def results(self) -> Sequence[StepResult]:
        """What each rank, rank 0 first, has said of the step that `next_result` gave last."""
        ...

    async def next_result(self) -> StepResult:
        """The next step that every rank has answered, with rank 0's tokens. Raises EpochEnded,
        or DigestMismatch or StepRefused when the ranks disagree."""
        ...

    def shelved(self) -> Sequence[Shelved]:
        """What every rank had on its shelf when the epoch began."""
        ...

    async def order(self, order: ShelfOrder) -> None:
        """Hand an order for the shelf to every rank, in order. Raises EpochEnded."""
        ...

    async def next_news(self) -> ShelfNews:
        """The next news of the shelf that every rank has told."""
        ...


class Ranks:
    """The open streams to every rank, rank 0 first."""

    def __init__(self, clients: Sequence[EngineClient]) -> None:
        self._clients = clients
        self.memory_bytes = [0] * len(clients)
        """Held by MLX at the last step, by rank."""
        self.peak_bytes = [0] * len(clients)
        """Most that MLX has used at once, by rank."""
        self.last_seq = [0] * len(clients)
        """Last step that each rank has answered."""
        self.results: Sequence[StepResult] = ()
        """As in StepPort."""
        self._told: defaultdict[tuple[Verb, Entry], list[deque[ShelfNews]]] = defaultdict(
            lambda: [deque() for _ in clients]
        )
        """News that not all ranks have told, by rank."""
        self._news: asyncio.Queue[ShelfNews] = asyncio.Queue()
        """What all have told; no more than there are orders without an answer."""
        for rank, client in enumerate(clients):
            client.on_news = partial(self._hear, rank)

    async def send(self, step: Step) -> None:
        message = encode(step)
        if len(self._clients) == 1:
            await self._clients[0].send_encoded(message)
            return
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(client.send_encoded(message))

    async def next_result(self) -> StepResult:
        results = [await client.next_result() for client in self._clients]
        self.memory_bytes = [result.memory_bytes for result in results]
        self.peak_bytes = [result.peak_bytes for result in results]
        self.last_seq = [result.seq for result in results]
        self.results = results
        return agreed(results)

    def shelved(self) -> tuple[Shelved, ...]:
        everywhere: list[Shelved] = []
        others = [{each.entry: each for each in client.shelved} for client in self._clients[1:]]
        for first in self._clients[0].shelved:
            same = [
                other[first.entry]
                for other in others
                if first.entry in other
                and (other[first.entry].scope, other[first.entry].ids) == (first.scope, first.ids)
            ]
            if len(same) == len(others):
                size = max(each.size for each in (first, *same))
                used = max(each.used for each in (first, *same))
                everywhere.append(replace(first, size=size, used=used))
        return tuple(everywhere)

    async def tidy(self) -> None:
        """Have every rank delete what is not on the shelf of all, which nobody could restore: a
        rank may have died in the middle of a save. Raises EpochEnded."""
        usable = {shelved.entry for shelved in self.shelved()}
        odd = {each.entry for client in self._clients for each in client.shelved} - usable
        for entry in sorted(odd):
            await self.order(ShelfOrder(Verb.DELETE, entry))

    async def order(self, order: ShelfOrder) -> None:
        for client in self._clients:
            await client.order(order)

    async def next_news(self) -> ShelfNews:
        return await self._news.get()

    def _hear(self, rank: int, news: ShelfNews) -> None:
        """One rank's news. They count once all ranks have told of the same."""
        key = (news.verb, news.entry)
        told = self._told[key]
        told[rank].append(news)
        if all(told):
            self._news.put_nowait(together([each.popleft() for each in told]))
            if not any(told):
                del self._told[key]


def agreed(results: Sequence[StepResult]) -> StepResult:
    """What the ranks' results, rank 0's first, come to: its own, if all have done the same step
    alike. Raises StepRefused or DigestMismatch."""
    first, *others = results
    for rank, other in enumerate(others, start=1):
        if other.seq != first.seq:
            raise StepRefused(f"rank {rank} answers step {other.seq}, rank 0 {first.seq}")
        if other.digest != first.digest:
            raise DigestMismatch(
                f"step {first.seq}: digest {other.digest:08x} on rank {rank}, "
                f"{first.digest:08x} on rank 0"
            )
    return first


def check_taken(facts: Iterable[EngineFacts | None]) -> None:
    """Raise EpochEnded when the ranks have not taken equally many steps: the coordinator that sent
    the last one died between two of them, and their collectives can't meet any more."""
    if len({each.taken for each in facts if each is not None}) > 1:
        raise EpochEnded("the coordinator before this one died between two ranks")


def together(news: Sequence[ShelfNews]) -> ShelfNews:
    """What the ranks' news of one entry come to: it is there only if all have it."""
    first = news[0]
    reasons = [f"rank {rank}: {each.reason}" for rank, each in enumerate(news) if each.reason]
    return ShelfNews(
        first.verb,
        first.entry,
        ok=all(each.ok for each in news),
        size=max(each.size for each in news),
        full=any(each.full for each in news),
        reason=reasons[0] if reasons else "",
    )
