"""A machine that is much slower than the others is said to be, once in an epoch."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import structlog.testing

from cluster.coordinator.drive import drive
from cluster.coordinator.straggler import LATEST
from cluster.core.ids import Epoch
from cluster.core.plan import StepResult
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, make_coordinator


class UnequalRanks(FakeRanks):
    """Two, which measure before each step."""

    async def next_result(self) -> StepResult:
        result = await super().next_result()
        self.results = tuple(replace(result, read_bytes_per_second=speed) for speed in (3e9, 1e9))
        return result


async def test_the_log_names_the_slow_machine() -> None:
    coordinator = make_coordinator()
    for number in (1, 2):
        ranks = UnequalRanks()
        with structlog.testing.capture_logs() as lines:
            driving = asyncio.create_task(drive(coordinator, Epoch(number), ranks, trimmable=True))
            await wait_for(lambda: coordinator.scheduler)
            hosts = [SimpleNamespace(hostname=name) for name in ("quick", "hot")]
            engines = [SimpleNamespace(member=SimpleNamespace(description=host)) for host in hosts]
            coordinator.group = SimpleNamespace(  # type: ignore[assignment]
                engines=engines, epoch=Epoch(number)
            )
            generation = coordinator.submit(Order((40, 41), Sampling(temperature=0.0), 100))
            await wait_for(lambda: generation.finish)  # noqa: B023 - awaited here
            await wait_for(lambda: not coordinator.live.journal)
            driving.cancel()
            await asyncio.wait([driving])
        assert len(ranks.steps) > LATEST
        (line,) = (line for line in lines if "slower" in line["event"])
        assert (line["rank"], line["host"], line["times_as_long"]) == (1, "hot", 3.0)
        assert coordinator.straggler.slow == {1}
