"""On which machines a model is placed, in which order and how it is split; or why on none.

Shards of a tensor split are equal, so the smallest machine of a choice bounds it. So are stages
of a pipeline, but for a layer more, as long as equal ones fit; else each machine gets as many
layers as it can hold (stages.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from cluster.core.cluster import ShardPlan
from cluster.core.errors import DoesNotFit
from cluster.core.ids import Rank
from cluster.placement.advice import what_would_fit
from cluster.placement.deals import deals, unequal_deals
from cluster.placement.fit import (
    Demand,
    Model,
    Node,
    asked_positions,
    check_demand,
    rank_memory,
    shares,
)
from cluster.placement.group import rate
from cluster.placement.links import Links
from cluster.placement.memory import Memory
from cluster.placement.room import gib, needed_memory
from cluster.placement.shape import model_type
from cluster.placement.shard import LARGEST_WORLD, kinds, obstacle
from cluster.placement.speed import Speed, work


class Objective(StrEnum):
    """What is best among the choices that fit."""

    LARGEST = "largest"
    """The largest world; of one size tensor before pipeline. What forming and recovery ask for:
    all machines that were given are used, and after a loss as many as still can be. Unequal
    stages come last of all: a small machine is no reason to give up a tensor split without it."""
    FASTEST = "fastest"
    """The fastest predicted decode; among equals tensor first, then the fewest ranks. Choices
    without a prediction come last, the largest world first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to split a model, on the machines that are best for it."""

    world: int
    kind: str
    """"single", "tensor" or "pipeline"."""
    nodes: tuple[str, ...] = ()
    """Ids by rank; empty where it does not fit."""
    memory: Memory | None = None
    """Of the rank that takes most; None where the model can't be split so."""
    usable_bytes: int = 0
    """What one rank may take on the machine that has least of those chosen."""
    speed: Speed | None = None
    """A prediction; None where it does not fit, or a chip is not known."""
    reason: str = ""
    """Why it was not chosen; empty for the chosen one."""
    layers: tuple[int, ...] = ()
    """As in ShardPlan."""
    stages: tuple[Memory, ...] = ()
    """By rank, where stages are unequal; else empty."""

    @property
    def fits(self) -> bool:
        """It could be served."""
        return bool(self.nodes)

    def plans(self, backend: str) -> tuple[ShardPlan, ...]:
        """The shard plan of each rank, whose group uses `backend`."""
        used = backend if self.world > 1 else "none"
        return tuple(
            ShardPlan(self.world, Rank(rank), self.kind, used, self.layers)
            for rank in range(self.world)
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """A choice, and what it was chosen from."""

    chosen: Choice
    considered: tuple[Choice, ...]
    """By world, the chosen one included."""


def place(
    model: Model,
    demand: Demand,
    nodes: Sequence[Node],
    links: Links,
    *,
    objective: Objective = Objective.LARGEST,
    most_ranks: int = LARGEST_WORLD,
    exclude: Collection[str] = (),
) -> Placement:
    """The best choice of up to `most_ranks` ranks on `nodes` without those whose id is in
    `exclude`. Ranks follow the order of `nodes`, and so do equally good sets of machines.

    Raises DoesNotFit with what each node has, what each split needs and what would fit;
    BadConfiguration for a demand that makes no sense.
    """
    check_demand(model, demand)
    here = [node for node in nodes if node.id not in exclude]
    considered = consider(model, demand, here, links, most_ranks)
    fitting = [choice for choice in considered if choice.fits]
    if not fitting:
        raise _refusal(model, demand, here, considered, most_ranks)
    chosen = _best(fitting, objective)
    return Placement(chosen, tuple(_explained(c, chosen, objective) for c in considered))


def consider(
    model: Model,
    demand: Demand,
    nodes: Sequence[Node],
    links: Links,
    most_ranks: int = LARGEST_WORLD,
) -> tuple[Choice, ...]:
    """Every split of up to as many ranks as `nodes` may have, by world and preference; those
    that do not fit say why."""
    most = min(most_ranks, sum(node.ranks for node in nodes))
    return tuple(
        _choice(model, demand, world, kind, nodes, links)
        for world in range(1, most + 1)
        for kind in kinds(world, demand.parallel)
    )


def _choice(
    model: Model, demand: Demand, world: int, kind: str, nodes: Sequence[Node], links: Links
) -> Choice:
    if reason := obstacle(model.config, world, kind):
        return Choice(world, kind, reason=reason)
    memory = rank_memory(model, demand, world, kind, nodes)
    room = [node.capacity(memory.total) for node in nodes]
    if sum(room) < world:
        if kind == "pipeline" and (found := _unequal(model, demand, world, nodes, links)):
            return found
        tried = ", nor do unequal stages fit" if kind == "pipeline" else ""
        each = "the rank needs" if world == 1 else f"each of {world} ranks needs"
        reason = f"{each} {gib(memory.total)}, and there is room for {sum(room) or 'none'}{tried}"
        return Choice(world, kind, memory=memory, reason=reason)
    todo = work(model.config, model.sizes, world, kind, demand.kv_bits)
    rated = [
        (hosts, rate(todo, hosts, links, demand.context)) for hosts in deals(room, nodes, world)
    ]
    hosts, rating = max(rated, key=lambda pair: pair[1].worth)
    least = min(shares(hosts))
    return Choice(world, kind, _ids(hosts), memory, least, rating.speed)


def _unequal(
    model: Model, demand: Demand, world: int, nodes: Sequence[Node], links: Links
) -> Choice | None:
    """A pipeline whose stages have the layers that their machines can hold; None for none."""
    todo = work(model.config, model.sizes, world, "pipeline", demand.kv_bits)
    best: tuple[tuple[float, ...], Choice] | None = None
    for hosts, dealt in unequal_deals(model, demand, world, nodes):
        stages = needed_memory(dealt, asked_positions(demand))
        memory = max(stages, key=lambda stage: stage.total)
        rating = rate(todo.staged(dealt.layers), hosts, links, demand.context)
        if best is None or rating.worth > best[0]:
            found = Choice(world, "pipeline", _ids(hosts), memory, min(dealt.usable_bytes))
            found = replace(found, speed=rating.speed, layers=dealt.layers, stages=stages)
            best = rating.worth, found
    return best[1] if best else None


def _ids(hosts: Sequence[Node]) -> tuple[str, ...]:
    return tuple(node.id for node in hosts)


def _best(fitting: Sequence[Choice], objective: Objective) -> Choice:
    """The first of the best; of one world, tensor comes before pipeline."""
    if objective is Objective.LARGEST:
        return max(fitting, key=lambda choice: (not choice.layers, choice.world))
    known = [choice for choice in fitting if choice.speed]
    if not known:
        return _best(fitting, Objective.LARGEST)
    return max(
        known, key=lambda c: (c.speed.decode if c.speed else 0.0, c.kind != "pipeline", -c.world)
    )


def _explained(choice: Choice, chosen: Choice, objective: Objective) -> Choice:
    """With the reason why it was not chosen, if it was not."""
    if choice is chosen or not choice.fits:
        return choice
    if objective is Objective.FASTEST and chosen.speed:
        slower = choice.speed is not None
        return replace(choice, reason="predicted to be slower" if slower else "speed not known")
    if choice.layers and not chosen.layers:
        return replace(choice, reason="equal parts go first")
    more = chosen.world > choice.world
    return replace(choice, reason="fewer ranks than fit" if more else "tensor goes first")


def _refusal(
    model: Model,
    demand: Demand,
    nodes: Sequence[Node],
    considered: Sequence[Choice],
    most_ranks: int,
) -> DoesNotFit:
    """All of it in one line: what is there, what is needed, what would do."""
    have = ", ".join(f"{node.id} ({gib(node.usable_bytes)} usable)" for node in nodes)
    needs: dict[int, int] = {}
    for choice in considered:
        if choice.memory:
            needs[choice.world] = min(
                choice.memory.total, needs.get(choice.world, choice.memory.total)
            )
    each = ", ".join(
        f"{gib(need)} on {'1 rank' if world == 1 else f'each of {world} ranks'}"
        for world, need in needs.items()
    )
    options = what_would_fit(model, demand, nodes, most_ranks)
    at_once = "" if demand.sequences == 1 else f", {demand.sequences} at once"
    return DoesNotFit(
        f"this {model_type(model.config)} model ({gib(sum(model.sizes.values()))} of weights) "
        f"with a context of {demand.context}{at_once} does not fit on "
        f"{have or 'no node at all'}{f': it needs {each}' if each else ''}. "
        f"What would fit: {'; or '.join(options)}",
        options,
    )
