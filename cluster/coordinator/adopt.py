"""Engines that outlived their coordinator, or their epoch: the next one goes on with them, and
nothing is loaded, or ends them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from cluster.coordinator.epoch import Place, Recipe, stop
from cluster.coordinator.members import Member
from cluster.coordinator.share import Share
from cluster.core.errors import NodeUnreachable


async def left_behind(members: Sequence[Member], incarnation: int) -> list[Place]:
    """The engines on `members`, of any model, that no coordinator holds and that none newer than
    `incarnation` has asked for. A member that does not answer has none."""

    async def ask(member: Member) -> list[Place]:
        try:
            return [Place(member, spec) for spec in await member.client.orphans()]
        except NodeUnreachable:
            return []

    found = await asyncio.gather(*map(ask, members))
    return [place for places in found for place in places if place.spec.incarnation <= incarnation]


def whole(places: Iterable[Place], recipe: Recipe) -> list[Place]:
    """A whole group of engines among `places`, by rank, that serves what `recipe` says: the
    largest, the newest of equals; empty when there is none."""
    groups: defaultdict[tuple[int, int, str], dict[int, Place]] = defaultdict(dict)
    for place in places:
        spec = place.spec
        if recipe.same(spec):
            groups[spec.plan.world, spec.epoch, spec.secret][spec.plan.rank] = place
    for key in sorted(groups, reverse=True):
        if sorted(groups[key]) == list(range(key[0])):
            return [groups[key][rank] for rank in range(key[0])]
    return []


def take_over(
    found: Sequence[Place],
    members: Sequence[Member],
    layers: tuple[int, ...],
    recipe: Recipe,
    share: Share,
) -> tuple[list[Place], list[Place]]:
    """Of the engines `found` on these machines, a whole group that `share` takes from here on, by
    rank, if it is its first look and there is one on just these; and those to end. Neither has
    engines of an epoch of this coordinator, nor what another group of the model may still take."""
    left = [place for place in found if place.spec.secret not in share.all.secrets]
    first, share.looked = not share.looked, True
    size = sum(member.ranks for member in members), layers
    sized = [place for place in left if (place.spec.plan.world, place.spec.plan.layers) == size]
    group = whole(sized, recipe) if first else []
    if {place.member for place in group} != set(members):
        group = []
    if group:
        share.secret = group[0].spec.secret
    coming = any(not sibling.looked for sibling in share.siblings)
    others = [place for place in left if place not in group]
    return group, [place for place in others if not (coming and recipe.same(place.spec))]


async def clear(places: Iterable[Place], incarnation: int) -> None:
    """End the engines at `places`, which take memory that others need, and all of the same epochs
    on these machines; none that a newer coordinator has asked for meanwhile."""
    epochs = {(place.member.id, place.spec.secret): place.member for place in places}
    await asyncio.gather(
        *(stop(member, secret, incarnation) for (_, secret), member in epochs.items())
    )
