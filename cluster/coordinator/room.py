"""Whether there is room for a model, and what each of its groups would serve there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cluster.coordinator.runner import Fitting
from cluster.coordinator.served import Forms
from cluster.coordinator.share import Share
from cluster.core.errors import DoesNotFit, SetupError
from cluster.membership.choice import choose
from cluster.membership.fleet import Known
from cluster.membership.roster import Node


@dataclass(frozen=True, slots=True)
class Site:
    """Of one group of a model."""

    share: Share
    """What it takes of the machines, and may take."""
    forms: Forms
    """What fits there."""


def fittings(
    sites: Sequence[Site], others: Iterable[Known], gone: Collection[str], now: float
) -> list[Fitting]:
    """What each group of a model, of which these are the sites, would serve once the models
    `gone` are unloaded; `others` are all models but that one. Nothing is taken.

    Raises the SetupError of a group that finds no room, which says all that people want to know
    where no more could be unloaded. As long as more could be, DoesNotFit for a makeshift, too.
    """
    last = all(known.pinned or known.id in gone for known in others if known.here)
    found = _dealt(sites, gone, now, explain=last)
    if not last and any(fitting.merit.makeshift for fitting in found):
        raise DoesNotFit("there is room for a short context only")
    return found


def _dealt(
    sites: Sequence[Site], gone: Collection[str], now: float, *, explain: bool
) -> list[Fitting]:
    """One group after the other, each on what those before it leave of its part."""
    taken: list[dict[str, int]] = [{} for _ in sites]
    found = []
    for number, site in enumerate(sites):
        others = taken[:number] + taken[number + 1 :]
        nodes, fitting = _chosen(site, others, gone, now, explain=explain)
        taken[number] = {node.id: node.ranks for node in nodes}
        found.append(fitting)
    return found


def _chosen(
    site: Site,
    others: Sequence[dict[str, int]],
    gone: Collection[str],
    now: float,
    *,
    explain: bool,
) -> tuple[list[Node], Fitting]:
    share, members = site.share, site.share.all.members
    part = share.all.deal(others, now) if others else members.roster.usable(now)

    def fit(nodes: Sequence[Node]) -> Fitting:
        return site.forms.fit(share.left_of(members.of(nodes), gone))

    try:
        return choose(part, fit, lambda fitting: fitting.merit)
    except SetupError as error:
        if not explain:
            raise
        left = share.left_of(members.of(part), gone)
        raise site.forms.refusal(left, error) from error
