"""A fleet of one coordinator, whose model is always there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.serving import Coordinator, Generation
from cluster.core.config import Limits
from cluster.core.errors import ModelNotFound, NotFound, Unsupported
from cluster.core.facts import Survey
from cluster.core.ids import RequestId
from cluster.core.request import Order
from cluster.core.view import (
    ClusterView,
    Health,
    MemberView,
    ModelRankView,
    ModelView,
    PlacementView,
    ReplicaView,
    RequestView,
    Sample,
    ServedModel,
)
from cluster.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class AlwaysThere:
    """Implements Answers."""

    coordinator: Coordinator
    loading: str = ""

    @property
    def model(self) -> ServedModel:
        return self.coordinator.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.coordinator.tokenizer

    @property
    def limits(self) -> Limits:
        return self.coordinator.limits

    def submit(self, order: Order, *, prefix: str = "chatcmpl") -> Generation:
        """See Coordinator."""
        return self.coordinator.submit(order, prefix=prefix)

    def health(self) -> Health:
        """See Coordinator."""
        return self.coordinator.health()


class Alone:
    """Implements Fleet."""

    keep_alive: float | None = None

    def __init__(self, coordinator: Coordinator) -> None:
        self.default = AlwaysThere(coordinator)
        self._coordinator = coordinator

    def find(self, model: str | None) -> AlwaysThere:
        """See Fleet."""
        served = self._coordinator.model.id
        if model is not None and model != served:
            raise ModelNotFound(
                f"the model {model[:200]!r} is not served here; {served!r} is", param="model"
            )
        return self.default

    def models(self) -> tuple[ModelView, ...]:
        """See Fleet."""
        view = self._coordinator.view()
        model, health = view.model, view.health
        ranks = tuple(
            ModelRankView(rank.rank, rank.node_id, rank.weight_bytes, rank.memory_bytes)
            for rank in view.ranks
        )
        kind = "single" if view.world <= 1 else "tensor"
        return (
            ModelView(
                id=model.id,
                state="loaded" if health.ok else "loading",
                pinned=True,
                default=True,
                context=model.context,
                weight_bytes=sum(rank.weight_bytes for rank in ranks),
                requests=len(view.requests),
                idle_seconds=0.0,
                progress="" if health.ok else health.reason,
                error="",
                replicas=(ReplicaView(0, view.epoch, view.world, kind, health.reason, ranks),),
                created=model.created,
                demo=model.demo,
            ),
        )

    def load(self, model: str, *, pin: bool | None = None) -> None:
        """It is there."""
        self.find(model)

    def unload(self, model: str, *, pinned: bool = True) -> None:
        """It stays."""
        self.find(model)

    def keep(self, model: str, seconds: float) -> None:
        """It stays."""
        self.find(model)

    def placement(self, model: str) -> PlacementView:
        """See Fleet."""
        self.find(model)
        raise Unsupported("the model is placed already, and stays where it is")

    def cancel(self, request_id: RequestId) -> bool:
        """See Coordinator."""
        return self._coordinator.cancel(request_id)

    def health(self) -> Health:
        """See Coordinator."""
        return self._coordinator.health()

    def view(self, model: str | None = None, replica: int | None = None) -> ClusterView:
        """See Fleet."""
        self._check(model, replica or 0)
        return self._coordinator.view()

    def requests(self) -> Sequence[RequestView]:
        """See Coordinator."""
        return self._coordinator.requests()

    def samples(
        self, after: int, model: str | None = None, replica: int = 0
    ) -> tuple[float, Sequence[Sample]]:
        """See Fleet."""
        self._check(model, replica)
        return self._coordinator.samples(after)

    def _check(self, model: str | None, replica: int) -> None:
        name = self.find(model).model.id
        if replica:
            raise NotFound(
                f"{name} has one group, replica 0, and no replica {replica}", param="replica"
            )

    async def facts(self) -> Survey:
        """See Coordinator."""
        return await self._coordinator.facts()

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """See Coordinator."""
        return self._coordinator.drain(name, draining=draining)

    def metrics(self) -> bytes:
        """See Coordinator."""
        return self._coordinator.metrics()
