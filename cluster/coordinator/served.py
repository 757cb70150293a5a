"""One model of the fleet, with all its groups: what the API asks for answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import Recipe
from cluster.coordinator.generation import Generation
from cluster.coordinator.members import Member
from cluster.coordinator.paths import Paths
from cluster.coordinator.runner import Fitting
from cluster.core.channel import ChannelState
from cluster.core.config import Limits
from cluster.core.errors import NotFound, QueueFull, SetupError, TandemError
from cluster.core.ids import RequestId
from cluster.core.request import Order
from cluster.core.view import Health, ServedModel
from cluster.membership.fleet import Use
from cluster.scheduler.route import Seat, route
from cluster.text.tokenizer import Tokenizer


class Forms(Protocol):
    """Says what machines can serve of one model, going by the ways between them."""

    def fit(self, members: Sequence[Member]) -> Fitting:
        """See Fit."""
        ...

    def refusal(self, members: Sequence[Member], error: SetupError) -> SetupError:
        """See Refusal."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be loaded, and all that is known of it before."""

    model: ServedModel
    folder: Path
    recipe: Recipe
    forming: Callable[[Paths], Forms]
    weight_bytes: int
    """Of its files."""

    def recipe_of(self, replica: int) -> Recipe:
        """Groups may share a machine, but no folder for prefixes: each has its own."""
        if not replica or not self.recipe.kv_dir:
            return self.recipe
        return replace(self.recipe, kv_dir=f"{self.recipe.kv_dir}/replica-{replica}")


class Served:
    """A model, loaded or not. Implements Answers of api/serving.py."""

    def __init__(
        self,
        offer: Offer,
        groups: Sequence[Coordinator],
        check: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`check` raises what keeps a request from being taken although its model is known;
        `changed` is called when there is a request more."""
        self.offer = offer
        self.groups = groups
        """One coordinator each."""
        self._check = check
        self._changed = changed
        self._tokenizer: Tokenizer | None = None
        self._loading = threading.Lock()

    @property
    def id(self) -> str:
        return self.offer.model.id

    @property
    def model(self) -> ServedModel:
        """As it is served, or would be."""
        return self.groups[0].model

    @property
    def limits(self) -> Limits:
        """Of one group."""
        return self.groups[0].limits

    @property
    def tokenizer(self) -> Tokenizer:
        """Loads it at the first time, which takes seconds: to be called in a thread. Raises
        ModelUnavailable."""
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.load(self.offer.folder)
                for group in self.groups:
                    group.tokenizer = self._tokenizer
            return self._tokenizer

    @property
    def loading(self) -> str:
        """What its requests wait for; empty while it is there."""
        waits = all(group.resting for group in self.groups)
        return self.groups[0].health().reason if waits else ""

    def group(self, replica: int) -> Coordinator:
        """One of its groups; raises NotFound."""
        if replica >= len(self.groups):
            last = len(self.groups) - 1
            which = "one group, replica 0" if not last else f"replicas 0 to {last}"
            raise NotFound(f"{self.id} has {which}, and no replica {replica}", param="replica")
        return self.groups[replica]

    def submit(self, order: Order, *, prefix: str = "chatcmpl") -> Generation:
        """Take a request; a model that is not loaded is loaded for it. Raises what Coordinator
        does, and ModelDoesNotFit; QueueFull when no group has room, or all together have as many as
        they may."""
        try:
            self._check(self.id)
            self._check_room()
        except TandemError as error:
            self.groups[0].tally.refused(error)
            raise
        generation = self._route(order).submit(order, prefix=prefix)
        self._changed()
        return generation

    def cancel(self, request_id: RequestId) -> bool:
        """See Coordinator."""
        return any(group.cancel(request_id) for group in self.groups)

    def health(self) -> Health:
        """Of the group that is best off."""
        every = [group.health() for group in self.groups]
        return max(every, key=lambda health: (health.ok, health.recovering))

    def use(self) -> Use:
        """What is asked of all groups together."""
        uses = [use for use in (group.live.use() for group in self.groups) if use]
        return Use(
            sum(use.running for use in uses),
            sum(use.waiting for use in uses),
            min((use.since for use in uses), default=0.0),
        )

    def waiting_for(self, what: str) -> None:
        """What its requests wait for, in a few words."""
        for group in self.groups:
            group.waiting_for(what)

    def fail(self, error: TandemError) -> None:
        """End all requests with an error."""
        for group in self.groups:
            group.live.fail(error)

    def rest(self) -> None:
        """It is not loaded, as somebody wished."""
        for group in self.groups:
            group.rest()

    def move(self) -> None:
        """What a group was computing whose engines are gone goes on in another, if there is one.
        A request that may be what has ended them stays, to be computed alone."""
        there = [group for group in self.groups if group.scheduler is not None]
        for group in self.groups:
            if not there or group.scheduler is not None or group.resting or not group.settled:
                continue
            for entry in list(group.live.journal.values()):
                takers = [other for other in there if other.fits(entry)]
                open_ = entry.channel.state is ChannelState.OPEN
                if takers and open_ and not entry.sequence.alone:
                    taker = min(takers, key=lambda other: len(other.live.journal))
                    taker.live.take(*group.live.give(entry.request.id))

    def _check_room(self) -> None:
        """Raise QueueFull when the groups together have as many requests as they may: one can
        have more than its part, and would get more whenever another hands over all of its own."""
        live = sum(len(group.live.journal) for group in self.groups)
        if len(self.groups) > 1 and live >= sum(group.limits.requests for group in self.groups):
            raise QueueFull(f"{live} requests are here already", retry_after=5)

    def _route(self, order: Order) -> Coordinator:
        there = [group for group in self.groups if group.health().ok] or self.groups
        if len(there) == 1:
            return there[0]
        return there[route(len(order.prompt), [_seat(group, order) for group in there])]


def _seat(group: Coordinator, order: Order) -> Seat:
    held = 0
    if group.scheduler is not None and order.cache:
        held = group.scheduler.holds(order.scope, order.prompt)
    return Seat(held, len(group.live.journal), full=group.full)
