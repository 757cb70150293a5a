"""The facts of every machine, which their agents are asked for all at once, for `tandem doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.coordinator.members import Member
from cluster.core.errors import TandemError
from cluster.core.facts import Surveyed


async def survey(members: Sequence[Member]) -> tuple[Surveyed, ...]:
    """One entry for each, in this order. An agent that does not answer within
    `node_client.SURVEY_SECONDS`, or refuses, has the reason in its entry; it raises nothing."""
    return tuple(await asyncio.gather(*map(_ask, members)))


async def _ask(member: Member) -> Surveyed:
    node = member.description
    try:
        facts, ahead, within = await member.client.survey()
    except TandemError as error:
        return Surveyed(node.node_id, node.hostname, node.agent_address, error=str(error))
    return Surveyed(node.node_id, node.hostname, node.agent_address, facts, "", ahead, within)
