"""What one group of ranks can serve, and how fast: what forming asks of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.core.errors import DoesNotFit
from cluster.placement.draft import draft_bytes
from cluster.placement.fit import Model, Node, shares, usual_context
from cluster.placement.links import Links
from cluster.placement.room import Engine, Room, room
from cluster.placement.shard import check_plan, has_unequal_stages, kinds, obstacle
from cluster.placement.speed import Rate, Speed, Work, predict_speed, waiting
from cluster.placement.stages import deal_layers


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that drafts."""

    config: Mapping[str, Any]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server is to offer with its model, as far as memory goes."""

    context: int
    """Of the model, in positions."""
    sequences: int
    """As in Limits, as is the next."""
    kv_tokens: int
    kv_bytes: int = 0
    """For caches on each rank; 0 for what fits."""
    kv_bits: int = 0
    """As in LaunchSpec."""
    parallel: str = "auto"
    """"auto", "tensor" or "pipeline"."""
    draft: Draft | None = None

    @property
    def usual(self) -> int:
        """Positions of the sequence that a group should hold, and whose speed counts."""
        return min(usual_context(self.context), self.kv_tokens)


@dataclass(frozen=True, slots=True)
class Split:
    """How a group shares a model, and what room it has then."""

    kind: str
    """"single", "tensor" or "pipeline"."""
    layers: tuple[int, ...]
    """As in ShardPlan."""
    room: Room
    enough: bool
    """It is room for one sequence of the usual context, or all that was asked for."""

    @property
    def makeshift(self) -> bool:
        """`place` would rather have another group, if there is one."""
        return bool(self.layers) or not self.enough


@dataclass(frozen=True, slots=True)
class Rating:
    """How good a group is beside others with as many ranks."""

    speed: Speed | None
    """A prediction; None where a chip is not known."""
    waits: float
    """Seconds of each token that ranks wait for each other, predicted."""
    throughput: float
    """Bytes per second of its slowest link."""

    @property
    def worth(self) -> tuple[float, ...]:
        """To be compared: decode first, then links, which are all there is to unknown chips."""
        return (self.speed.decode if self.speed else 0.0, -self.waits, self.throughput)


def split(model: Model, terms: Terms, hosts: Sequence[Node]) -> Split:
    """How ranks on `hosts`, by rank, share the model.

    As `place` would have it: tensor before pipeline and equal stages before unequal ones, where
    they hold one sequence of the usual context. Where nothing does, tensor still goes first, and
    stages are those that hold most. Raises CannotShard, or DoesNotFit with the numbers of the
    first split that is possible.
    """
    world = len(hosts)
    check_plan(model.config, world, terms.parallel)
    found: list[Split] = []
    refusal: DoesNotFit | None = None
    for kind in kinds(world, terms.parallel):
        if obstacle(model.config, world, kind):
            continue
        try:
            best = _best(model, terms, kind, hosts)
        except DoesNotFit as error:
            refusal = refusal or error
            continue
        if best.enough:
            return best
        found.append(best)
    if not found:
        assert refusal is not None  # one kind has no obstacle: check_plan has seen to it
        raise refusal
    return found[0]


def rate(todo: Work, hosts: Sequence[Node], links: Links, context: int) -> Rating:
    """How fast ranks on `hosts`, by rank, are predicted to do what there is to do."""
    link = links.worst([node.id for node in hosts])
    fence = max(node.fence for node in hosts)
    rates = [
        Rate(node.chip.bandwidth / count, node.chip.flops / count)
        for node in hosts
        if node.chip and (count := sum(node.id == other.id for other in hosts))
    ]
    known = len(rates) == len(hosts)
    speed = predict_speed(todo, rates, link, fence, context) if known else None
    return Rating(speed, waiting(todo, link, fence), link.throughput)


def _best(model: Model, terms: Terms, kind: str, hosts: Sequence[Node]) -> Split:
    """With equal stages if they hold enough, else with those that hold most. Raises DoesNotFit."""
    engine = _engine(model, terms, kind, hosts)
    possible: list[Split] = []
    refusals: list[DoesNotFit] = []
    for stages in (_equal, _unequal) if kind == "pipeline" else (_equal,):
        try:
            staged = stages(engine, model)
            if staged is not None:
                space = room(staged, terms.kv_tokens, terms.kv_bytes)
                enough = bool(terms.kv_bytes) or _holds(staged, terms)
                possible.append(Split(kind, staged.layers, space, enough))
        except DoesNotFit as error:
            refusals.append(error)
        if possible and possible[0].enough:
            break
    if not possible:
        raise refusals[0]
    return max(possible, key=lambda one: (one.enough, one.room.kv_tokens))


def _equal(engine: Engine, model: Model) -> Engine:
    return engine


def _unequal(engine: Engine, model: Model) -> Engine | None:
    return deal_layers(engine, model.weights) if has_unequal_stages(model.config) else None


def _holds(engine: Engine, terms: Terms) -> bool:
    """It has room for one sequence of the usual context. Equal stages are not quite: one may have
    a layer more. That must be no matter of which machine gets it, since the ring decides that."""
    if not engine.layers:
        engine = replace(engine, usable_bytes=(min(engine.usable_bytes),) * engine.world)
    try:
        space = room(engine, terms.kv_tokens)
    except DoesNotFit:
        return False
    return space.kv_tokens - space.slot_positions >= terms.usual


def _engine(model: Model, terms: Terms, kind: str, hosts: Sequence[Node]) -> Engine:
    world = len(hosts)
    fused = all(node.fused for node in hosts)
    draft = terms.draft
    beside = draft_bytes(draft.config, draft.weight_bytes, fused=fused) if draft else 0
    first, *others = shares(hosts)
    return Engine(
        config=model.config,
        world=world,
        kind=kind,
        kv_bits=terms.kv_bits,
        weight_bytes=model.weights.by_rank(world, kind),
        usable_bytes=(first - beside, *others),
        sequences=terms.sequences,
        context=terms.context,
        fused=fused,
        cores=min(node.cores for node in hosts),
        draft_bytes=beside,
    )
