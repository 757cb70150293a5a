"""A coordinator that plays a script: beside the contract in api/serving.py, to test against."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from api.app import create_app
from api.server import server_config
from cluster.core.config import Limits
from cluster.core.errors import NotFound, PromptTooLong, TandemError
from cluster.core.facts import Survey, Surveyed
from cluster.core.ids import RequestId, new_request_id
from cluster.core.request import (
    Finish,
    Order,
    Phase,
    Piece,
    Progress,
    StepTiming,
    Timing,
    Usage,
)
from cluster.core.view import (
    ClusterView,
    Counters,
    Health,
    MemberView,
    RequestView,
    Sample,
    ServedModel,
)
from cluster.text.tokenizer import Tokenizer


class Gate:
    """A place in a script where it stops until the test opens it."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.reached = False

    def open(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        self.reached = True
        await self._event.wait()


@dataclass(frozen=True)
class Now:
    """A place in a script where the progress changes."""

    phase: Phase
    prefilled: int = 0


Script = list[str | int | Piece | Gate | Now | TandemError | Finish]
"""Text pieces, end with a Finish (default: stop) or an error; a number is that many tokens
whose text is held back."""


class FakeGeneration:
    stop: str | None = None
    ids: tuple[int, ...] = ()

    def __init__(self, order: Order, script: Script, prefix: str, cached: int) -> None:
        self.id = new_request_id(prefix)
        self.order = order
        self.finish: Finish | None = None
        self.progress = Progress(Phase.QUEUED, len(order.prompt), 0, 0)
        self.timing = Timing(0.0, 0.0, 0.0, 0.0, None)
        self.steps: tuple[StepTiming, ...] = ()
        self.closed = 0
        self.at: Gate | None = None
        self._script = script
        self._cached = cached

    @property
    def usage(self) -> Usage:
        return Usage(len(self.order.prompt), self._cached, self.progress.generated)

    def cancel(self) -> None:
        if self.finish is None:
            self.finish = Finish.CANCELLED

    async def __aenter__(self) -> FakeGeneration:
        return self

    async def __aexit__(self, *args: object) -> None:
        self.closed += 1
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for item in self._script:
            match item:
                case Finish():  # before str, which it is too
                    self.finish = item
                    return
                case str() | int() | Piece():
                    piece = _piece(item)
                    done = self.progress.generated + piece.tokens
                    self.progress = replace(self.progress, phase=Phase.DECODE, generated=done)
                    yield piece
                case Gate():
                    self.at = item
                    await item.wait()
                    if self.finish is not None:  # cancelled meanwhile
                        return
                case Now():
                    self.progress = replace(
                        self.progress, phase=item.phase, prefilled=item.prefilled
                    )
                case TandemError():
                    self.finish = Finish.FAILED
                    raise item
        self.finish = Finish.STOP


def _piece(item: str | int | Piece) -> Piece:
    match item:
        case str():
            return Piece(item, 1)
        case int():
            return Piece("", item)
        case Piece():
            return item


class FakeCoordinator:
    def __init__(self, tokenizer: Tokenizer, limits: Limits | None = None) -> None:
        self.model = ServedModel("org/fake-model", context=512, created=1700000000, demo=False)
        self.tokenizer = tokenizer
        self.limits = limits or Limits(body_bytes=1 << 20)
        self.script: Script = ["Hello", ", ", "world"]
        self.scripts: list[Script] = []
        """Of the generations to come, while there are any; then `script`."""
        self.cached = 0
        self.refuse: TandemError | None = None
        self.healthy = Health(True, "serving")
        self.sampled: list[Sample] = []
        self.generations: list[FakeGeneration] = []

    @property
    def order(self) -> Order:
        """The latest."""
        return self.generations[-1].order

    def submit(self, order: Order, *, prefix: str = "chatcmpl") -> FakeGeneration:
        if self.refuse is not None:
            raise self.refuse
        if len(order.prompt) >= self.model.context:
            raise PromptTooLong(len(order.prompt), self.model.context)
        script = self.scripts.pop(0) if self.scripts else self.script
        generation = FakeGeneration(order, script, prefix, self.cached)
        self.generations.append(generation)
        return generation

    def cancel(self, request_id: RequestId) -> bool:
        live = (one for one in self.generations if one.id == request_id and one.finish is None)
        found = next(live, None)
        if found is not None:
            found.cancel()
            if found.at is not None:
                found.at.open()
        return found is not None

    def requests(self) -> tuple[RequestView, ...]:
        return tuple(
            RequestView(g.id, g.progress, 0, 0.5) for g in self.generations if g.finish is None
        )

    def samples(self, after: int) -> tuple[float, list[Sample]]:
        return 100.0, [sample for sample in self.sampled if sample.number > after]

    def health(self) -> Health:
        return self.healthy

    def metrics(self) -> bytes:
        return b"# TYPE tandem_ready gauge\ntandem_ready 1.0\n"

    def drain(self, name: str, *, draining: bool) -> MemberView:
        if name != "studio-2":
            raise NotFound(f"no machine {name!r} is here", param="node")
        return MemberView("studio-2-1", name, "alive", draining, 0)

    async def facts(self) -> Survey:
        return Survey("", (Surveyed("studio-2-1", "studio-2", "10.0.0.2:8644", error="silent"),))

    def view(self) -> ClusterView:
        requests = self.requests()
        return ClusterView(
            model=self.model, health=self.healthy, epoch=1, world=1, backend="none", link="none",
            nodes=(), ranks=(), requests=requests, counters=Counters(0, 0, 0, 0, 0, 0, 0, 0),
            decode_tokens_per_second=0.0, prefill_tokens_per_second=0.0, queue_limit=128,
            steps_sent=0, uptime_seconds=1.0,
        )  # fmt: skip


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        return nullcontext()

    async def main_loop(self) -> None:
        """Ends at once where uvicorn's takes up to a tenth of a second."""
        while not await self.on_tick(0):
            await anyio.sleep(0.005)


@asynccontextmanager
async def serving(
    coordinator: FakeCoordinator,
    sign_of_life: float = 4.0,
    *,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[int]:
    """The API on a real uvicorn, on the port that is handed out; `options` are of create_app."""
    app = create_app(coordinator, sign_of_life=sign_of_life, **options)
    async with running(app, tls) as port:
        yield port


@asynccontextmanager
async def running(app: ASGIApp, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An application on a real uvicorn, on the port that is handed out."""
    server = _Server(server_config(app, tls=tls))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(10):
            while not server.started:
                await anyio.sleep(0.005)
        port: int = server.servers[0].sockets[0].getsockname()[1]
        yield port
        server.should_exit = True


CHAT = "/v1/chat/completions"


def question(**fields: Any) -> dict[str, Any]:
    """A small valid request; `fields` are added, or replace what is there."""
    return {"messages": [{"role": "user", "content": "Say hello"}], **fields}
