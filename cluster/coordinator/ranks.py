"""All engines of an epoch as one: a step goes to every rank, a result counts when all agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from cluster.core.errors import DigestMismatch, StepRefused
from cluster.core.plan import Step, StepResult
from cluster.wire.engine_client import EngineClient, encode


class StepPort(Protocol):
    """What executes steps, as the coordinator sees it."""

    async def send(self, step: Step) -> None:
        """Hand a step to every rank, in order. Raises EpochEnded."""
        ...

    async def next_result(self) -> StepResult:
        """The next step that every rank has answered, with rank 0's tokens. Raises EpochEnded,
        or DigestMismatch or StepRefused when the ranks disagree."""
        ...


class Ranks:
    """The open streams to every rank, rank 0 first."""

    def __init__(self, clients: Sequence[EngineClient]) -> None:
        self._clients = clients
        self.memory_bytes = [0] * len(clients)
        """Held by MLX at the last step, by rank."""
        self.last_seq = [0] * len(clients)
        """Last step that each rank has answered."""

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
        self.last_seq = [result.seq for result in results]
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
