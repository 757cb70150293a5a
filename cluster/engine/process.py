"""The engine process: one thread for MLX, the event loop for the endpoint beside it."""

from __future__ import annotations

import asyncio
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import NoReturn

import mlx.core as mx

from cluster.core.cluster import EngineFacts, Hello, LaunchSpec
from cluster.core.errors import NotAuthorized, ProtocolError, TandemError, VersionMismatch
from cluster.core.plan import Step, StepResult
from cluster.core.versions import versions
from cluster.engine import memory, stdio
from cluster.engine.executor import Executor
from cluster.engine.group import form_group
from cluster.engine.loader import LoadedModel, load
from cluster.engine.loop import StepLoop
from cluster.model.config import read_config
from cluster.model.digest import digest
from cluster.model.folder import resolve
from cluster.placement.shard import check_shard
from cluster.wire.engine_client import differences
from cluster.wire.engine_server import EngineServer


class Engine:
    """One rank. Implements `wire.engine_server.EngineHandler`.

    Everything of MLX is done by `_body` on the engine thread; the rest on the event loop.
    """

    def __init__(self, spec: LaunchSpec, events: stdio.Events) -> None:
        self._spec = spec
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[StepResult | BaseException] = asyncio.Queue()
        """Results in order; at the end, and then for good, why there will be no more."""
        self._incarnation = 0
        self._loaded: Future[tuple[LoadedModel, StepLoop]] = Future()
        self.failure: asyncio.Future[BaseException] = self._loop.create_future()
        """Done when the engine can't go on, with the reason."""

    async def load(self) -> None:
        """Start the engine thread and return once steps can be taken; raises what went wrong."""
        Thread(target=self._body, name="engine", daemon=True).start()
        self._facts, self._steps = await asyncio.wrap_future(self._loaded)

    def hello(self, theirs: Hello) -> Hello:
        """See EngineHandler."""
        spec = self._spec
        mine = Hello(
            spec.epoch, theirs.incarnation, versions(), spec.model_digest, spec.plan, self._about()
        )
        wrong = differences(mine, theirs)
        if wrong:
            raise VersionMismatch(f"engine of rank {spec.plan.rank}: " + "; ".join(wrong))
        if theirs.incarnation < self._incarnation:
            raise NotAuthorized(
                f"coordinator {theirs.incarnation} was replaced by {self._incarnation}"
            )
        self._incarnation = theirs.incarnation
        return mine

    def submit(self, step: Step) -> None:
        """See EngineHandler."""
        self._steps.submit(step)

    async def next_result(self) -> StepResult:
        """See EngineHandler."""
        result = await self._results.get()
        if isinstance(result, StepResult):
            return result
        self._results.put_nowait(result)
        rank = self._spec.plan.rank
        raise ProtocolError(f"rank {rank}: {type(result).__name__}: {result}")

    def _about(self) -> EngineFacts:
        return EngineFacts(
            trimmable=self._facts.trimmable,
            weight_bytes=self._facts.weight_bytes,
            memory_bytes=mx.get_active_memory() + mx.get_cache_memory(),
            last_seq=self._steps.last_seq,
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
            self._loop.call_soon_threadsafe(self._results.put_nowait, error)
            self._loop.call_soon_threadsafe(self.failure.set_result, error)

    def _prepare(self) -> StepLoop:
        spec, loading = self._spec, self._events.loading
        memory.bound()
        here = spec.model == "demo" or Path(spec.model).is_dir()
        loading("weights" if here else "download", 0.0)
        folder = resolve(spec.model)
        found = digest(folder) if spec.model_digest else ""
        if found != spec.model_digest:
            raise VersionMismatch(
                f"the model in {folder} has digest {found[:12]}, the coordinator's "
                f"{spec.model_digest[:12]}: they are not the same model"
            )
        # Before the group is formed: the other ranks are not kept waiting for an answer.
        check_shard(read_config(folder), spec.plan.world)
        group = form_group(spec)
        loaded = load(folder, group, lambda fraction: loading("weights", fraction))
        loading("warm-up", 0.0)
        executor = Executor(loaded, group)
        loading("warm-up", 1.0)
        steps = StepLoop(executor, spec.epoch, self._deliver, rank=spec.plan.rank)
        self._loaded.set_result((loaded, steps))
        return steps

    def _deliver(self, result: StepResult) -> None:
        self._loop.call_soon_threadsafe(self._results.put_nowait, result)


async def serve(started: float, events: stdio.Events) -> NoReturn:
    """The whole life of the process after its first lines; `started` is on the monotonic clock."""
    server = None
    try:
        spec, host = stdio.read_spec()
        engine = Engine(spec, events)
        await engine.load()
        server = EngineServer(engine, spec.secret)
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
    stdio.exit_now(1)
