"""Engines that outlived their coordinator: the next one goes on with them; nothing is loaded."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from cluster.coordinator.epoch import Place, Recipe
from cluster.coordinator.members import Member
from cluster.core.errors import NodeUnreachable


async def left_behind(members: Sequence[Member], recipe: Recipe) -> list[Place]:
    """A whole group of engines, by rank, that no coordinator holds and that serves what `recipe`
    says; empty when there is none."""

    async def ask(member: Member) -> list[Place]:
        try:
            return [Place(member, spec) for spec in await member.client.orphans()]
        except NodeUnreachable:
            return []

    found = await asyncio.gather(*map(ask, members))
    return whole([place for places in found for place in places], recipe)


def whole(places: Iterable[Place], recipe: Recipe) -> list[Place]:
    """The largest whole group among `places`, the newest of equals; see `left_behind`."""
    groups: defaultdict[tuple[int, int, str], dict[int, Place]] = defaultdict(dict)
    for place in places:
        spec = place.spec
        if recipe.same(spec):
            groups[spec.plan.world, spec.epoch, spec.secret][spec.plan.rank] = place
    for key in sorted(groups, reverse=True):
        if sorted(groups[key]) == list(range(key[0])):
            return [groups[key][rank] for rank in range(key[0])]
    return []
