"""Where a model would go now: for `GET /models/placement`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cluster.coordinator.members import Member
from cluster.coordinator.runner import Fitting
from cluster.coordinator.served import Served
from cluster.coordinator.share import Share, Shares
from cluster.core.errors import SetupError
from cluster.core.view import PlacementChoice, PlacementNode, PlacementView
from cluster.membership.choice import groups


def placement_view(
    served: Served, share: Share, shares: Shares, gone: Collection[str], now: float
) -> PlacementView:
    """The choices of one group, by world, once the models `gone` are; the largest that fits is
    the one that would be chosen."""
    choices: dict[int, PlacementChoice] = {}
    refusal = ""
    for nodes in groups(shares.members.roster.usable(now)):
        world = sum(node.ranks for node in nodes)
        if world in choices and choices[world].fits:
            continue
        members = share.left_of(shares.members.of(nodes), gone)
        try:
            fitting = served.offer.fit(members)
        except SetupError as error:
            refusal = refusal or str(error)
            no = PlacementChoice(world, "", False, str(error), False, None, None, ())
            choices.setdefault(world, no)
        else:
            chosen = not any(choice.fits for choice in choices.values())
            choices[world] = _choice(world, members, fitting, chosen=chosen)
    fits = any(choice.fits for choice in choices.values())
    return PlacementView(
        served.id,
        fits,
        "" if fits else refusal or "no machine is here",
        tuple(choices[world] for world in sorted(choices)),
    )


def _choice(
    world: int, members: Sequence[Member], fitting: Fitting, *, chosen: bool
) -> PlacementChoice:
    return PlacementChoice(
        world=world,
        kind=fitting.kind if world > 1 else "single",
        fits=True,
        reason="" if chosen else "fewer ranks than fit",
        chosen=chosen,
        predicted_decode=None,
        predicted_prefill=None,
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
