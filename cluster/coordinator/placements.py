"""Where a model would go now: for `GET /models/placement`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cluster.coordinator.members import Member
from cluster.coordinator.room import Site
from cluster.coordinator.runner import Fitting
from cluster.coordinator.share import Shares
from cluster.core.errors import SetupError
from cluster.core.view import PlacementChoice, PlacementNode, PlacementView
from cluster.membership.choice import Merit, best, by_size, choose
from cluster.membership.roster import Node


def placement_view(
    model: str,
    site: Site,
    shares: Shares,
    gone: Collection[str],
    now: float,
) -> PlacementView:
    """The choices of one group, by world, once the models `gone` are; the one that would be
    chosen is that of `choose`."""
    share, forms = site.share, site.forms
    usable = shares.members.roster.usable(now)
    choices: dict[int, PlacementChoice] = {}

    def fit(nodes: Sequence[Node]) -> Fitting:
        return forms.fit(share.left_of(shares.members.of(nodes), gone))

    def merit(fitting: Fitting) -> Merit:
        return fitting.merit

    chosen = 0
    refusal = ""
    try:
        nodes, _ = choose(usable, fit, merit)
        chosen = sum(node.ranks for node in nodes)
    except SetupError as error:
        refusal = str(forms.refusal(share.left_of(shares.members.of(usable), gone), error))
    for groups in by_size(usable):
        world = sum(node.ranks for node in groups[0])
        try:
            nodes, fitting = best(groups, fit, merit)
        except SetupError as error:
            no = PlacementChoice(world, "", False, str(error), False, None, None, ())
            choices[world] = no
        else:
            members = share.left_of(shares.members.of(nodes), gone)
            choices[world] = _choice(world, members, fitting, chosen=world == chosen)
    return PlacementView(
        model, bool(chosen), refusal, tuple(choices[world] for world in sorted(choices))
    )


def _choice(
    world: int, members: Sequence[Member], fitting: Fitting, *, chosen: bool
) -> PlacementChoice:
    short = "room for a short context only" if fitting.merit.makeshift else "fewer ranks than fit"
    reason = "" if chosen else short
    speed = fitting.speed
    return PlacementChoice(
        world=world,
        kind=fitting.kind if world > 1 else "single",
        fits=True,
        reason=reason,
        chosen=chosen,
        predicted_decode=speed.decode if speed else None,
        predicted_prefill=speed.prefill if speed else None,
        nodes=tuple(
            PlacementNode(
                node_id=member.id,
                hostname=member.description.hostname,
                ranks=member.ranks,
                bytes_per_rank=fitting.model.rank_bytes,
                usable_bytes=member.description.usable_bytes,
            )
            for member in members
        ),
    )
