"""Which machines can give the weights of a model to those that have them not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.coordinator.members import Member
from cluster.coordinator.picture import SLOWEST_FIRST
from cluster.core.errors import TandemError
from cluster.core.manifest import Wanted, is_digest


async def find_sources(members: Sequence[Member], model: str, digest: str) -> tuple[str, ...]:
    """Addresses of the agents whose machines have `model` with that digest, best first.

    For `LaunchSpec.sources`; empty when none has it. A member that does not answer, or not in
    time, is none; it raises nothing.
    """
    if not is_digest(digest):
        return ()
    wanted = Wanted(model, digest)
    once = list(dict.fromkeys(members))

    async def has(member: Member) -> bool:
        try:
            return await member.client.has(wanted) is not None
        except TandemError:
            return False

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(has(member)) for member in once]
    return best_first([m for m, asked in zip(once, asking, strict=True) if asked.result()])


def best_first(members: Sequence[Member]) -> tuple[str, ...]:
    """Their agents' addresses: those on faster links first, among equals in the order given."""
    return tuple(
        member.description.agent_address
        for member in sorted(members, key=lambda member: -SLOWEST_FIRST.index(_link(member)))
    )


def _link(member: Member) -> str:
    """Kind of the interface on which the agent listens."""
    kinds = {address.ip: address.kind for address in member.description.addresses}
    return kinds.get(member.host, "loopback" if member.host.startswith("127.") else "other")
