"""What `GET /metrics` says after requests of every kind, and that the documentation knows it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from api.app import create_app
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.coordinator.generation import Generation
from cluster.coordinator.histogram import Histogram
from cluster.coordinator.tally import STEP_BOUNDS, TOKEN_BOUNDS, WAIT_BOUNDS
from cluster.core.config import Limits
from cluster.core.errors import EpochEnded, NotReady, PromptTooLong, QueueFull
from cluster.core.ids import Epoch, Seq
from cluster.core.plan import StepResult
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, answer, make_coordinator

ROOT = Path(__file__).resolve().parent.parent.parent
GREEDY = Sampling(temperature=0)
HISTOGRAMS = ("queue_seconds", "time_to_first_token_seconds", "inter_token_seconds")


class BreakingRanks(FakeRanks):
    """Ranks of an epoch that a test can end."""

    broken = False

    async def next_result(self) -> StepResult:
        result = await super().next_result()
        if self.broken:
            raise EpochEnded("rank 0 exited")
        return result


@asynccontextmanager
async def epoch(
    coordinator: Coordinator, number: int = 1
) -> AsyncIterator[tuple[BreakingRanks, asyncio.Task[None]]]:
    ranks = BreakingRanks()
    driving = asyncio.create_task(drive(coordinator, Epoch(number), ranks, trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    yield ranks, driving
    driving.cancel()
    await asyncio.wait([driving])


def scrape(coordinator: Coordinator) -> dict[str, float]:
    """Samples by name and label values, without "tandem_": "requests_total stop"."""
    samples = {}
    for family in text_string_to_metric_families(coordinator.metrics().decode()):
        for sample in family.samples:
            key = " ".join([sample.name.removeprefix("tandem_"), *sample.labels.values()])
            assert key not in samples
            samples[key] = sample.value
    return samples


def prompt(number: int, length: int = 5) -> tuple[int, ...]:
    return (40 + number, *range(60, 59 + length))


async def all_over(coordinator: Coordinator, *generations: Generation) -> None:
    await wait_for(lambda: all(g.finish for g in generations) and not coordinator.live.journal)


async def test_counts_are_exact() -> None:
    coordinator = make_coordinator(limits=Limits(parked=8, sequences=3), context=256)
    async with epoch(coordinator):
        long = [coordinator.submit(Order(prompt(i), GREEDY, 1 + i)) for i in range(10)]
        stops = []
        for i in range(20, 24):
            stop = chr(answer(prompt(i), 9)[8])
            stops.append(coordinator.submit(Order(prompt(i), GREEDY, 200, stop=(stop,))))
        for _ in range(2):
            with pytest.raises(PromptTooLong):
                coordinator.submit(Order((40,) * 300, GREEDY))
        left = coordinator.submit(Order(prompt(30), GREEDY, 5))
        left.cancel()  # in the queue still
        generations = [*long, *stops, left]
        await all_over(coordinator, *generations)
        again = coordinator.submit(Order(prompt(0, 100), GREEDY, 5))
        await all_over(coordinator, again)
        again = [again, coordinator.submit(Order(prompt(0, 100), GREEDY, 5))]
        await all_over(coordinator, *again)
        now = scrape(coordinator)
    generations += again
    for finish in Finish:
        count = sum(generation.finish is finish for generation in generations)
        assert now[f"requests_total {finish}"] == count
    assert now["requests_total stop"] == 4
    assert now["requests_total cancelled"] == 1
    assert now["requests_refused_total PromptTooLong"] == 2
    assert now["requests_refused_total QueueFull"] == 0
    served = [generation for generation in generations if generation.usage.completion_tokens]
    assert len(served) == len(generations) - 1
    usages = [generation.usage for generation in served]
    assert now["prompt_tokens_total"] == sum(usage.prompt_tokens for usage in usages)
    assert now["cached_prompt_tokens_total"] == sum(usage.cached_tokens for usage in usages) >= 99
    generated = sum(usage.completion_tokens for usage in usages)
    assert now["generated_tokens_total"] == generated
    assert now["drained_tokens_total"] == coordinator.live.channels.drained_tokens
    assert now["orphan_tokens_total"] == 0
    # One value for each request, or for each token but the first.
    assert now["queue_seconds_count"] == len(generations)
    assert now["time_to_first_token_seconds_count"] == len(served)
    assert now["inter_token_seconds_count"] == generated - len(served)
    firsts = [generation.timing.first_token or 0.0 for generation in served]
    assert now["time_to_first_token_seconds_sum"] == pytest.approx(sum(firsts))
    decoding = sum(generation.timing.decode for generation in served)
    assert now["inter_token_seconds_sum"] == pytest.approx(decoding)
    for name in HISTOGRAMS:
        assert now[f"{name}_bucket +Inf"] == now[f"{name}_count"]


async def test_steps_are_counted_by_rank_and_kind() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator) as (ranks, _):
        await all_over(coordinator, coordinator.submit(Order(prompt(0, 300), GREEDY, 50)))
        now = scrape(coordinator)
    chunks = [step for step in ranks.steps if step.chunks]
    assert now["step_seconds_count prefill 0"] == len(chunks) > 1
    assert now["step_seconds_sum prefill 0"] == pytest.approx(300 * 0.0001)
    rows = [step for step in ranks.steps if step.decode]
    assert now["step_seconds_count decode 0"] == len(rows)
    assert now["step_seconds_sum decode 0"] == pytest.approx(
        sum(0.001 * step.iterations for step in rows)
    )


async def test_gauges_are_what_is_at_the_time_of_asking() -> None:
    coordinator = make_coordinator(
        limits=Limits(sequences=1, parked=2, queue=2, kv_tokens=9000, draft=0)
    )
    before = scrape(coordinator)
    assert (before["ready"], before["epoch"], before["world_size"]) == (0, 0, 0)
    async with epoch(coordinator) as (ranks, _):
        ranks.gate.clear()
        first = coordinator.submit(Order(prompt(0), GREEDY, 50))
        await wait_for(lambda: ranks.steps)
        waiting = [coordinator.submit(Order(prompt(i), GREEDY, 50)) for i in (1, 2)]
        with pytest.raises(QueueFull):
            coordinator.submit(Order(prompt(3), GREEDY, 50))
        busy = scrape(coordinator)
        ranks.gate.set()
        await all_over(coordinator, first, *waiting)
        idle = scrape(coordinator)
    phases = ("queued", "prefill", "decode", "draining")
    assert [busy[f"live_requests {phase}"] for phase in phases] == [2, 1, 0, 0]
    assert (busy["queue_depth"], busy["queue_limit"]) == (2, 2)
    assert (busy["slots_used"], busy["slots_limit"]) == (1, 1)
    assert busy["kv_positions live"] == 55
    assert busy["kv_positions_limit"] == 9000
    assert (busy["parked_prefixes"], busy["kv_positions parked"]) == (0, 0)
    assert (busy["ready"], busy["requests_refused_total QueueFull"]) == (1, 1)
    assert [idle[f"live_requests {phase}"] for phase in phases] == [0, 0, 0, 0]
    assert (idle["queue_depth"], idle["slots_used"], idle["kv_positions live"]) == (0, 0, 0)
    assert idle["parked_prefixes"] == 2
    assert idle["kv_positions parked"] > 100


async def test_counts_outlive_their_epoch() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator) as (ranks, driving):
        await all_over(coordinator, coordinator.submit(Order(prompt(0), GREEDY, 7)))
        ranks.broken = True
        replayed = coordinator.submit(Order(prompt(1), GREEDY, 7))
        await asyncio.wait([driving])
    assert replayed.finish is None
    between = scrape(coordinator)
    assert between["ready"] == 0
    async with epoch(coordinator, 2):
        await all_over(coordinator, replayed)
        await all_over(coordinator, coordinator.submit(Order(prompt(3), GREEDY, 7)))
        now = scrape(coordinator)
    assert between["epochs_ended_total EpochEnded"] == now["epochs_ended_total EpochEnded"] == 1
    assert (between["generated_tokens_total"], now["generated_tokens_total"]) == (7, 21)
    assert (now["requests_total length"], now["requests_total failed"]) == (3, 0)
    assert (now["replayed_requests_total"], now["recovery_seconds_count"]) == (1, 1)
    assert now["queue_seconds_count"] == 3
    assert now["time_to_first_token_seconds_count"] == 3
    stopped = scrape(coordinator)  # being told to stop is not an end of that kind
    assert stopped["epochs_ended_total EpochEnded"] == 1


def test_ranks_and_the_group_they_form() -> None:
    coordinator = make_coordinator()
    coordinator.group = SimpleNamespace(  # type: ignore[assignment]
        epoch=Epoch(3),
        engines=[SimpleNamespace(rss_bytes=size) for size in (700, 800)],
        ranks=SimpleNamespace(memory_bytes=[100, 200], peak_bytes=[300, 400]),
    )
    for speeds in ((4e9, 1e9), (4e9, 3e9), (None, None)):
        coordinator.straggler.note(
            [StepResult(Epoch(3), Seq(1), 0, read_bytes_per_second=speed) for speed in speeds]
        )
    now = scrape(coordinator)
    assert (now["epoch"], now["world_size"]) == (3, 2)
    assert now["rank_read_bytes_per_second 0"] == 4e9
    assert now["rank_read_bytes_per_second 1"] == 2e9
    assert (now["rank_memory_bytes 0"], now["rank_memory_bytes 1"]) == (100, 200)
    assert (now["rank_peak_memory_bytes 0"], now["rank_peak_memory_bytes 1"]) == (300, 400)
    assert (now["rank_rss_bytes 0"], now["rank_rss_bytes 1"]) == (700, 800)


def test_each_coordinator_counts_for_itself() -> None:
    one, other = make_coordinator(), make_coordinator()
    with pytest.raises(NotReady):
        one.submit(Order(prompt(0), GREEDY))
    assert scrape(one)["requests_refused_total NotReady"] == 1
    assert scrape(other)["requests_refused_total NotReady"] == 0
    assert not any(family.name.startswith("tandem") for family in REGISTRY.collect())


def test_a_histogram_counts_up_to_and_including_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.5, 1), (2.0, 1), (9.0, 3)):
        histogram.observe(value, times)
    assert histogram.cumulative == [(1.0, 3), (2.0, 5), (float("inf"), 8)]
    assert histogram.count == 8
    assert histogram.total == 0.5 + 2 * 1.0 + 1.5 + 2.0 + 3 * 9.0


@pytest.mark.parametrize("bounds", [WAIT_BOUNDS, TOKEN_BOUNDS, STEP_BOUNDS])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


# The route, and what is written about it


async def test_the_route_answers_as_prometheus_expects() -> None:
    coordinator = make_coordinator()
    app: ASGIApp = create_app(coordinator)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answered = await client.get("/metrics")
        refused = await client.post("/metrics")
    assert answered.status_code == 200
    assert answered.headers["content-type"] == CONTENT_TYPE_LATEST
    assert answered.content == coordinator.metrics()
    assert refused.status_code == 405


def exposed(coordinator: Coordinator) -> dict[str, str]:
    """Names as Prometheus has them, with their types."""
    text = coordinator.metrics().decode()
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def test_the_documentation_has_every_name_and_no_other() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", page, re.MULTILINE)
    assert {name: kind for name, kind, _ in table} == exposed(make_coordinator())


async def test_the_documentation_has_every_label() -> None:
    coordinator = make_coordinator()
    async with epoch(coordinator):
        await all_over(coordinator, coordinator.submit(Order(prompt(0), GREEDY, 7)))
        families = list(text_string_to_metric_families(coordinator.metrics().decode()))
    page = (ROOT / "docs/metrics.md").read_text()
    for family in families:
        for sample in family.samples:
            row = re.search(rf"^\| `{family.name}(_total)?` .*$", page, re.MULTILINE)
            assert row is not None, family.name
            labels = re.findall(r"`(\w+)`", row[0].split("|")[3])
            assert set(sample.labels) - {"le"} == set(labels), family.name


@pytest.mark.parametrize("file", ["deploy/grafana/dashboard.json", "docs/metrics.md"])
def test_every_name_that_is_asked_for_is_exposed(file: str) -> None:
    text = (ROOT / file).read_text()
    if file.endswith(".json"):
        panels = json.loads(text)["panels"]
        text = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    known = exposed(make_coordinator())
    for name in re.findall(r"tandem_\w+", text):
        bare = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or known.get(bare) == "histogram", name
