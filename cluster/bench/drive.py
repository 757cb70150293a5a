"""Runs one level of load: asks as planned, and writes down what comes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from cluster.bench.answer import Answer
from cluster.bench.ask import Asker, Place
from cluster.bench.load import Load, arrivals
from cluster.bench.meter import Meter
from cluster.bench.prompts import Prompts
from cluster.bench.result import Level, Request, Status
from cluster.bench.sessions import Session, Workload, session

IN_FLIGHT = 2000
"""Requests at a time at most; in an open loop more wait for a place, which counts as their
latency from when they were due."""
GAPS = 4_000_000
"""Gaps between pieces that are kept of a level: some 40 MB of the document."""
FAILURES = 50
"""So many in a row, and a level is given up."""
REST = 0.2
"""Seconds that a client waits after a failure, unless told longer: refusals cost nothing, and a
closed loop would ask a thousand times a second."""
RECENT = 200
"""Requests whose TTFT the live figures are taken from."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a level ends: after `seconds`, `requests`, or whichever is first."""

    seconds: float | None
    requests: int | None


class Live:
    """What can be seen of a level while it runs."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.begin = time.monotonic()
        self.began = time.time()
        """Unix time."""
        self.requests: list[Request] = []
        self.under_way: set[Answer] = set()
        self.asked = 0
        self.failed = 0
        self.ttfts: deque[float] = deque(maxlen=RECENT)
        self._pieces = 0
        self._gaps = GAPS

    @property
    def seconds(self) -> float:
        """Since the level began."""
        return time.monotonic() - self.begin

    @property
    def pieces(self) -> int:
        """Of all answers so far."""
        return self._pieces + sum(len(answer.times) for answer in self.under_way)

    def record(self, request: Request) -> None:
        """Take in one that is over."""
        self._pieces += len(request.gaps) + (request.first is not None)
        self._gaps -= len(request.gaps)
        if self._gaps < 0:
            request = replace(request, gaps=())
        self.requests.append(request)
        self.failed += request.status == "failed"
        if request.first is not None:
            self.ttfts.append(request.first - request.planned)


class LevelRun:
    """One level. `run` returns what came; when it is cancelled, `result` has what came so far."""

    def __init__(
        self, number: int, load: Load, work: Workload, prompts: Prompts, bounds: Bounds
    ) -> None:
        self.live = Live(load)
        self._number = number
        self._load = load
        self._work = work
        self._prompts = prompts
        self._bounds = bounds
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._failed_in_a_row = 0
        self._meter = Meter()

    async def run(self, asker: Asker, watch: Callable[[Live], None]) -> Level:
        """All of it, until the last answer is there. `watch` is called a few times a second."""
        self.live.begin, self.live.began = time.monotonic(), time.time()
        async with asyncio.TaskGroup() as group:
            metering = group.create_task(self._meter.run(lambda: watch(self.live)))
            if self._load.kind == "closed":
                await self._closed(asker)
            else:
                await self._open(asker)
            metering.cancel()
        return self.result()

    @property
    def given_up(self) -> bool:
        """Too many failures in a row."""
        return self._failed_in_a_row >= FAILURES

    def result(self) -> Level:
        """What there is so far."""
        seconds, ended = self._bounds.seconds, self.live.seconds
        last = max((request.end for request in self.live.requests), default=ended)
        if seconds is None:
            window = last
        elif self._exhausted:
            window = min(last, seconds)
        else:
            window = min(ended, seconds)
        live, client = self.live, self._meter.client()
        return Level(self._load, window, tuple(live.requests), client, live.began)

    @property
    def _exhausted(self) -> bool:
        """All the requests that were to be asked have been."""
        return self._bounds.requests is not None and self.live.asked >= self._bounds.requests

    def _over(self, due: float) -> bool:
        """Nothing that is due then is to be asked any more. What was due in time is asked even
        when we are late ourselves."""
        late = self._bounds.seconds is not None and due >= self._bounds.seconds
        return late or self._exhausted or self.given_up

    async def _closed(self, asker: Asker) -> None:
        numbers = itertools.count()

        async def client() -> None:
            while not self._over(due := self.live.seconds):
                await self._converse(asker, self._session(next(numbers)), due)

        async with asyncio.TaskGroup() as group:
            for _ in range(int(self._load.size)):
                group.create_task(client())

    async def _open(self, asker: Asker) -> None:
        chance = Random(f"arrivals {self._work.seed} {self._number}")
        async with asyncio.TaskGroup() as group:
            for number, at in enumerate(arrivals(self._load.size, chance)):
                if self._over(at):
                    break
                if (wait := at - self.live.seconds) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._converse(asker, self._session(number), at))

    def _session(self, number: int) -> Session:
        return session(self._work, self._number, number)

    async def _converse(self, asker: Asker, who: Session, planned: float) -> None:
        """One session, turn after turn. It ends with a failure, or when its client hangs up."""
        live = self.live
        messages = self._prompts.opening()
        for index, turn in enumerate(who.turns):
            if self._over(planned):
                return
            live.asked += 1
            messages.append(self._prompts.question(turn.prompt, self._number, who.number, index))
            answer = Answer(turn.hang_up)
            place = Place(who.number, index, planned)
            async with self._places:
                live.under_way.add(answer)
                try:
                    status, rest = await asker.ask(
                        answer, messages, turn, place, live.begin, live.record
                    )
                finally:
                    live.under_way.discard(answer)
            await self._after(status, rest)
            if status != "ok":
                return
            messages.append({"role": "assistant", "content": answer.text})
            planned = live.seconds + (self._work.think if index + 1 < len(who.turns) else 0.0)
            await asyncio.sleep(planned - live.seconds)

    async def _after(self, status: Status, rest: float) -> None:
        if status != "failed":
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._load.kind == "closed":
            rest = max(rest, REST)
            if self._bounds.seconds is not None:
                rest = min(rest, max(0.0, self._bounds.seconds - self.live.seconds))
            await asyncio.sleep(rest)
