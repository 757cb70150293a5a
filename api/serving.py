"""What the API needs of a coordinator, and nothing more; tests/unit/api/fake.py is another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from cluster.core.config import Limits
from cluster.core.facts import Survey
from cluster.core.ids import RequestId
from cluster.core.request import Finish, Order, Piece, Progress, StepTiming, Timing, Usage
from cluster.core.view import (
    ClusterView,
    Health,
    MemberView,
    ModelView,
    PlacementView,
    RequestView,
    Sample,
    ServedModel,
)
from cluster.text.tokenizer import Tokenizer


class Generation(Protocol):
    """A request under way. Leaving the `async with` block cancels it if it still runs."""

    @property
    def id(self) -> RequestId: ...

    @property
    def finish(self) -> Finish | None:
        """None while it runs."""
        ...

    @property
    def usage(self) -> Usage:
        """Exact once `finish` is not None."""
        ...

    @property
    def progress(self) -> Progress: ...

    @property
    def timing(self) -> Timing:
        """Exact once `finish` is not None."""
        ...

    @property
    def stop(self) -> str | None:
        """The stop string that ended it, if one has."""
        ...

    @property
    def ids(self) -> tuple[int, ...]:
        """The answer's ids so far, without one that ends it."""
        ...

    @property
    def steps(self) -> tuple[StepTiming, ...]:
        """The latest steps that computed for it; empty unless the order wants them recorded."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The answer; raises TandemError when it can't be completed."""
        ...


class Answers(Protocol):
    """One model, whether it is loaded or not: what a request for it asks."""

    @property
    def model(self) -> ServedModel: ...

    @property
    def tokenizer(self) -> Tokenizer:
        """May take seconds to load: to be asked for in a thread."""
        ...

    @property
    def limits(self) -> Limits: ...

    @property
    def loading(self) -> str:
        """What its requests wait for; empty while it is loaded."""
        ...

    def submit(self, order: Order, *, prefix: str = ...) -> Generation:
        """Everything decidable is decided here; raises RequestError or Busy. A model that is not
        loaded is loaded for it."""
        ...

    def health(self) -> Health: ...


@runtime_checkable
class Fleet(Protocol):
    """All that one server can answer with."""

    @property
    def default(self) -> Answers:
        """What answers where a request names no model."""
        ...

    @property
    def keep_alive(self) -> float | None:
        """Seconds without a request after which a model is unloaded, unless told otherwise; None
        for never."""
        ...

    def find(self, model: str | None) -> Answers:
        """The model of that name, or the default; raises ModelNotFound. May be called in a
        thread."""
        ...

    def models(self) -> Sequence[ModelView]:
        """All that may be asked for, in their order."""
        ...

    def load(self, model: str, *, pin: bool | None = None) -> None:
        """Have it loaded, and pinned or not; None leaves that. Raises ModelNotFound, NotReady, or
        ModelDoesNotFit."""
        ...

    def unload(self, model: str, *, pinned: bool = True) -> None:
        """Have it unloaded, once it has no request; one that is pinned only with `pinned`, which
        takes the pin off it. Raises ModelNotFound."""
        ...

    def keep(self, model: str, seconds: float) -> None:
        """Keep it for another time than `keep_alive` (infinite: for ever), until it is unloaded.
        Raises ModelNotFound."""
        ...

    def placement(self, model: str) -> PlacementView:
        """Where it would go. Raises ModelNotFound or NotReady."""
        ...

    def cancel(self, request_id: RequestId) -> bool:
        """End a request as its client's wish; False when none by this id runs."""
        ...

    def health(self) -> Health: ...

    def view(self, model: str | None = None, replica: int | None = None) -> ClusterView:
        """Of one group: see ClusterView. Raises ModelNotFound or NotFound."""
        ...

    def requests(self) -> Sequence[RequestView]:
        """All live requests, of all models."""
        ...

    def samples(
        self, after: int, model: str | None = None, replica: int = 0
    ) -> tuple[float, Sequence[Sample]]:
        """As in Coordinator, of one group. Raises ModelNotFound or NotFound."""
        ...

    async def facts(self) -> Survey:
        """Of every machine, which are asked now; takes seconds. Raises NotReady."""
        ...

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """A machine, by its id or host name, is to be free, or may be used again. Raises
        NotFound, or NotReady when nothing could be served without it."""
        ...

    def metrics(self) -> bytes:
        """Everything that is counted, in Prometheus's text format."""
        ...


class Coordinator(Protocol):
    """The one that decides, for one model that is always there."""

    @property
    def model(self) -> ServedModel: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limits(self) -> Limits: ...

    def submit(self, order: Order, *, prefix: str = ...) -> Generation:
        """Everything decidable is decided here; raises RequestError or Busy."""
        ...

    def cancel(self, request_id: RequestId) -> bool:
        """End a request as its client's wish; False when none by this id runs."""
        ...

    def requests(self) -> Sequence[RequestView]:
        """All live requests, in the order in which they came."""
        ...

    def samples(self, after: int) -> tuple[float, Sequence[Sample]]:
        """(now, samples of the last hour with higher numbers than `after`), in seconds since the
        start."""
        ...

    def health(self) -> Health: ...

    def view(self) -> ClusterView: ...

    def drain(self, name: str, *, draining: bool) -> MemberView:
        """A machine, by its id or host name, is to be free, or may be used again. Raises
        NotFound, or NotReady when nothing could be served without it."""
        ...

    async def facts(self) -> Survey:
        """Of every machine, which are asked now; takes seconds. Raises NotReady."""
        ...

    def metrics(self) -> bytes:
        """Everything that is counted, in Prometheus's text format."""
        ...
