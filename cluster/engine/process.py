"""The engine process: one thread for MLX, the event loop for the endpoint beside it."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import NoReturn

import mlx.core as mx

from cluster.core.cluster import EngineFacts, Hello, LaunchSpec
from cluster.core.errors import ProtocolError, StepRefused, TandemError, VersionMismatch
from cluster.core.plan import Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.core.versions import versions
from cluster.engine import memory, stdio
from cluster.engine.agree import Agreement
from cluster.engine.draft_model import DraftModel, load_draft
from cluster.engine.executor import Executor
from cluster.engine.grammar import Grammars
from cluster.engine.group import form_group
from cluster.engine.loader import LoadedModel, load
from cluster.engine.loop import StepLoop
from cluster.engine.shelf import Shelf, open_shelf
from cluster.model.config import read_config
from cluster.model.cut import model_digest
from cluster.model.digest import digest
from cluster.model.folder import resolve
from cluster.placement.kv import check_kv_bits
from cluster.placement.shard import check_plan
from cluster.trust.identity import IdentityFile
from cluster.wire.engine_server import EngineServer

Answer = StepResult | ShelfNews | BaseException


CAUSE_SECONDS = 0.2
"""A collective fails when another rank is gone, whose agent says why: people are to read that, not
what it led to, so it is told first."""


class Engine:
    """One rank. Implements `wire.engine_server.EngineHandler`.

    Everything of MLX is done by `_body` on the engine thread; the rest on the event loop.
    """

    def __init__(self, spec: LaunchSpec, events: stdio.Events) -> None:
        self._spec = spec
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        """Results in order and news as they come, no more than steps and orders were taken; at
        the end, and then for good, why there will be no more."""
        self._shelf: Shelf | None = None
        """Set by the engine thread before it has loaded; None without a folder for it."""
        self._shelved: tuple[Shelved, ...] = ()
        """What the latest coordinator was told of it."""
        self._begun = False
        self._digest = ""
        """Of the model's folder, where it is needed."""
        self._loaded: Future[tuple[LoadedModel, StepLoop]] = Future()
        self.failure: asyncio.Future[BaseException] = self._loop.create_future()
        """Done when the engine can't go on, with the reason."""

    async def load(self) -> None:
        """Start the engine thread and return once steps can be taken; raises what went wrong."""
        Thread(target=self._body, name="engine", daemon=True).start()
        self._facts, self._steps = await asyncio.wrap_future(self._loaded)

    def hello(self) -> Hello:
        """See EngineHandler."""
        spec = self._spec
        return Hello(spec.epoch, 0, versions(), spec.model_digest, spec.plan, self._about())

    def begin(self) -> Sequence[Shelved]:
        """See EngineHandler."""
        if self._begun:
            # What the last coordinator ordered ends up where nobody looks: news in the queue
            # that its shelf knows, results in it or nowhere, as `reset` says.
            answers: asyncio.Queue[Answer] = asyncio.Queue()
            if self._shelf is not None:
                self._shelf.retire()
                self._shelf = self._open_shelf(answers)
            self._steps.reset(self._shelf)
            self._answers = answers
            if self.failure.done():
                answers.put_nowait(self.failure.result())
        self._begun = True
        return self._shelved

    def submit(self, step: Step) -> None:
        """See EngineHandler."""
        self._steps.submit(step)

    def order(self, order: ShelfOrder) -> None:
        """See EngineHandler."""
        if self._shelf is None:
            raise StepRefused(f"to {order.verb} {order.entry}: this engine keeps nothing on disk")
        self._shelf.order(order)

    async def next_answer(self) -> StepResult | ShelfNews:
        """See EngineHandler."""
        answer = await self._answers.get()
        if not isinstance(answer, BaseException):
            return answer
        self._answers.put_nowait(answer)
        rank = self._spec.plan.rank
        raise ProtocolError(f"rank {rank}: {type(answer).__name__}: {answer}")

    def close(self) -> None:
        """Finish what is being written to disk, unless it takes long."""
        if self._shelf is not None:
            self._shelf.close()

    def _about(self) -> EngineFacts:
        return EngineFacts(
            trimmable=self._facts.trimmable,
            weight_bytes=self._facts.weight_bytes,
            memory_bytes=mx.get_active_memory() + mx.get_cache_memory(),
            last_seq=self._steps.answered,
            position_bytes=self._facts.caches.position_bytes,
            slot_bytes=self._facts.caches.slot_bytes,
            taken=self._steps.taken,
        )

    def _body(self) -> None:
        """The engine thread: load, then take steps until something fails."""
        try:
            steps = self._prepare()
        except BaseException as error:  # noqa: BLE001 - reported by the event loop
            self._loaded.set_exception(error)
            return
        try:
            steps.run()
        except BaseException as error:  # noqa: BLE001 - reported by the event loop
            traceback.print_exc()
            alone = self._spec.plan.world == 1 or isinstance(error, TandemError)
            wait = 0.0 if alone else CAUSE_SECONDS
            self._loop.call_soon_threadsafe(self._loop.call_later, wait, self._fail, error)

    def _prepare(self) -> StepLoop:
        spec, loading = self._spec, self._events.loading
        memory.bound()
        here = spec.model == "demo" or Path(spec.model).is_dir()
        loading("weights" if here else "download", 0.0)
        folder = resolve(spec.model)
        found = model_digest(folder, spec.plan) if spec.model_digest or spec.kv_dir else ""
        if spec.model_digest:
            _check_digest(folder, found, spec.model_digest)
        # Before the group is formed: the other ranks are not kept waiting for an answer.
        config = read_config(folder)
        check_plan(config, spec.plan.world, spec.plan.kind)
        check_kv_bits(config, spec.kv_bits)
        if spec.kv_dir:
            self._digest = found
            self._shelf = self._open_shelf(self._answers)
        drafting = self._draft_model() if spec.draft_model and spec.plan.rank == 0 else None
        group = form_group(spec)
        loaded = load(
            folder, spec.plan, group, lambda fraction: loading("weights", fraction), spec.kv_bits
        )
        loading("warm-up", 0.0)
        draft_model = DraftModel(drafting, Agreement(group)) if spec.draft_model else None
        executor = Executor(
            loaded,
            group,
            grammars=lambda vocab: Grammars(folder, vocab),
            shelf=self._shelf,
            draft_model=draft_model,
        )
        loading("warm-up", 1.0)
        steps = StepLoop(executor, spec.epoch, self._deliver, rank=spec.plan.rank)
        self._loaded.set_result((loaded, steps))
        return steps

    def _open_shelf(self, answers: asyncio.Queue[Answer]) -> Shelf:
        """A shelf whose news go to `answers`, and nowhere else whoever is there by then."""
        spec = self._spec
        shelf = open_shelf(
            spec.kv_dir,
            self._digest,
            spec.plan,
            spec.kv_bits,
            partial(self._deliver_to, answers),
        )
        self._shelved = shelf.contents()
        return shelf

    def _deliver(self, result: StepResult) -> None:
        self._deliver_to(self._answers, result)

    def _deliver_to(self, answers: asyncio.Queue[Answer], answer: Answer) -> None:
        self._loop.call_soon_threadsafe(answers.put_nowait, answer)

    def _fail(self, error: BaseException) -> None:
        self._answers.put_nowait(error)
        self.failure.set_result(error)

    def _draft_model(self) -> LoadedModel:
        """Load it, which takes little time beside the model's own loading."""
        folder = resolve(self._spec.draft_model)
        if self._spec.draft_digest:
            _check_digest(folder, digest(folder), self._spec.draft_digest)
        return load_draft(folder, lambda fraction: self._events.loading("weights", 0.0))


def _check_digest(folder: Path, found: str, expected: str) -> None:
    """Raises VersionMismatch."""
    if found != expected:
        raise VersionMismatch(
            f"the model in {folder} has digest {found[:12]}, the coordinator's "
            f"{expected[:12]}: they are not the same model"
        )


async def serve(started: float, events: stdio.Events) -> NoReturn:
    """The whole life of the process after its first lines; `started` is on the monotonic clock."""
    server = engine = None
    try:
        spec, host, path = stdio.read_spec()
        identity = IdentityFile(Path(path)) if path else None
        engine = Engine(spec, events)
        await engine.load()
        server = EngineServer(engine, spec.secret, identity)
        await server.start(host)
        events.ready(server.endpoint, time.monotonic() - started)
        events.failed(await engine.failure)
    except TandemError as error:
        events.failed(error)
    except Exception as error:  # noqa: BLE001 - the agent must hear of it, whatever it is
        traceback.print_exc()
        events.failed(error)
    if server is not None:
        await server.stop()
    if engine is not None:
        await asyncio.to_thread(engine.close)
    stdio.exit_now(1)
