"""Whether there is room for a model, and what each of its groups would serve there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cluster.coordinator.runner import Fitting
from cluster.coordinator.served import Forms
from cluster.coordinator.share import Share
from cluster.core.errors import DoesNotFit, SetupError
from cluster.membership.choice import choose
from cluster.membership.deal import deal
from cluster.membership.fleet import Known
from cluster.membership.roster import Node


@dataclass(frozen=True, slots=True)
class Place:
    """Of one group of a model."""

    share: Share
    """What it takes of the machines, and may take."""
    forms: Forms
    """What fits there."""


def fittings(
    places: Sequence[Place], others: Iterable[Known], gone: Collection[str], now: float
) -> list[Fitting]:
    """What each group of a model, of which these are the places, would serve once the models
    `gone` are unloaded; `others` are all models but that one. Nothing is taken.

    Raises the SetupError of a group that finds no room, which says all that people want to know
    where no more could be unloaded. As long as more could be, DoesNotFit for a makeshift, too.
    """
    last = all(known.pinned or known.id in gone for known in others if known.here)
    found = _dealt(places, gone, now, explain=last)
    if not last and any(fitting.merit.makeshift for fitting in found):
        raise DoesNotFit("there is room for a short context only")
    return found


def _dealt(
    places: Sequence[Place], gone: Collection[str], now: float, *, explain: bool
) -> list[Fitting]:
    """One group after the other, each on what those before it leave of its part."""
    taken: list[dict[str, int]] = [{} for _ in places]
    found = []
    for number, place in enumerate(places):
        others = taken[:number] + taken[number + 1 :]
        nodes, fitting = _chosen(place, others, gone, now, explain=explain)
        taken[number] = {node.id: node.ranks for node in nodes}
        found.append(fitting)
    return found


def _chosen(
    place: Place,
    others: Sequence[dict[str, int]],
    gone: Collection[str],
    now: float,
    *,
    explain: bool,
) -> tuple[list[Node], Fitting]:
    share, members = place.share, place.share.all.members
    usable = members.roster.usable(now)
    part = deal(usable, others, len(others) + 1) if others else usable

    def fit(nodes: Sequence[Node]) -> Fitting:
        return place.forms.fit(share.left_of(members.of(nodes), gone))

    try:
        return choose(part, fit, lambda fitting: fitting.merit)
    except SetupError as error:
        if not explain:
            raise
        left = share.left_of(members.of(part), gone)
        raise place.forms.refusal(left, error) from error
