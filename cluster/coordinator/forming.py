"""What groups of machines can serve of one model: placement, asked about the members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from cluster.coordinator.members import Member, check_reach
from cluster.coordinator.paths import Paths
from cluster.coordinator.runner import Fitting
from cluster.core.config import Limits
from cluster.core.errors import CannotShard, DoesNotFit, SetupError
from cluster.core.view import ServedModel
from cluster.membership.choice import Merit
from cluster.placement.advice import LEAST_CONTEXT
from cluster.placement.fit import Demand, Model, Node, node_of
from cluster.placement.group import Split, Terms, rate, split
from cluster.placement.links import Links
from cluster.placement.place import place
from cluster.placement.speed import Work, work

_MOST_GROUPS = 1024
"""Whose splits are kept in mind: more than there are of 8 machines."""


def usable_bytes(member: Member) -> int:
    """What engines of a machine may use together."""
    return member.description.usable_bytes


class Forming:
    """Says what groups of members can serve; `fit` is a Fit, and `refusal` a Refusal."""

    def __init__(
        self,
        model: Model,
        terms: Terms,
        served: ServedModel,
        limits: Limits,
        paths: Paths,
        usable: Callable[[Member], int] = usable_bytes,
    ) -> None:
        """`served` and `limits` are what is asked for, of which a group gets what it has room
        for; `usable` says how many bytes all ranks of a member may take together."""
        self._model = model
        self._terms = terms
        self._served = served
        self._limits = limits
        self._paths = paths
        self._usable = usable
        # A group is looked at again and again: whenever a larger one might be had.
        self._split = lru_cache(_MOST_GROUPS)(self._try)
        self._work = lru_cache(self._todo)

    def fit(self, members: Sequence[Member]) -> Fitting:
        """See Fit: tensor before pipeline, and caches that hold what the rank with the least room
        beside its weights can. Raises NodeUnreachable where there is no ring, BadConfiguration
        where engines could not reach each other, CannotShard or DoesNotFit."""
        check_reach(members)
        ring = self._paths.ring(members)
        nodes = [self._node(members[place]) for place in ring.order]
        hosts = tuple(node for node in nodes for _ in range(node.ranks))
        found = self._split(hosts)
        if isinstance(found, SetupError):
            raise found
        todo = self._work(len(hosts), found.kind).staged(found.layers)
        links = self._paths.speeds(members, ring)
        rating = rate(todo, hosts, links, self._terms.usual)
        space = found.room
        limits = replace(
            self._limits,
            kv_tokens=space.kv_tokens,
            slot_positions=space.slot_positions,
            position_bytes=space.position_bytes,
            attended=space.attended,
        )
        longest = min(self._served.context, space.kv_tokens - space.slot_positions)
        served = replace(self._served, context=longest, rank_bytes=space.rank_bytes)
        merit = Merit(found.makeshift, (found.kind != "pipeline", *rating.worth))
        return Fitting(found.kind, limits, served, found.layers, merit)

    def refusal(self, members: Sequence[Member], error: SetupError) -> SetupError:
        """See Refusal: with what each machine has, what each split of the model needs, and what
        would fit."""
        if self._terms.kv_bytes or not isinstance(error, CannotShard | DoesNotFit):
            return error
        nodes = [replace(self._node(each), id=each.description.hostname) for each in members]
        context = min(LEAST_CONTEXT, self._terms.context)
        demand = Demand(context, 1, self._terms.kv_bits, self._terms.parallel)
        try:
            place(self._model, demand, nodes, Links())
        except DoesNotFit as refusal:
            return refusal
        return error  # a draft model, or as many ranks on a machine as it was given, do not fit

    def _node(self, member: Member) -> Node:
        node = node_of(member.description, member.ranks)
        return replace(node, usable_bytes=self._usable(member))

    def _try(self, hosts: tuple[Node, ...]) -> Split | SetupError:
        try:
            return split(self._model, self._terms, hosts)
        except (CannotShard, DoesNotFit) as error:
            return error

    def _todo(self, world: int, kind: str) -> Work:
        return work(self._model.config, self._model.sizes, world, kind, self._terms.kv_bits)
