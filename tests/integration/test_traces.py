"""What is noted of a traced request: by the coordinator, by the API, and told to a collector."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.access import AccessPolicy
from api.keys import KeyRing, add_key
from api.otlp import otlp_exporter
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.core.clock import ManualClock
from cluster.core.config import Limits
from cluster.core.errors import EpochEnded, QueueFull
from cluster.core.ids import Entry, Epoch
from cluster.core.plan import Step, StepResult, StepTimes
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from cluster.core.shelf import ShelfNews, Shelved, Verb
from cluster.core.timeline import Event, Timeline, Track
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, make_coordinator
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, running, serving
from tests.unit.api.traced import check_file

GREEDY = Sampling(temperature=0)
PROMPT = tuple(range(40, 140))
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
AHEAD = (500.0, -3.0)


class TimedRanks(FakeRanks):
    """Two ranks with clocks of their own; each result takes a second of ours."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self._sent: list[Step] = []
        self.breaks = False

    async def send(self, step: Step) -> None:
        self._sent.append(step)
        await super().send(step)

    async def next_result(self) -> StepResult:
        result = await super().next_result()
        if self.breaks:
            raise EpochEnded("rank 1 exited")
        step, begun = self._sent.pop(0), self._clock.now()
        self._clock.advance(1.0)
        if step.timed:
            self.results = tuple(
                replace(result, times=_times(step, begun + ahead, self._clock.now()))
                for ahead in AHEAD
            )
        return self.results[0]


def _times(step: Step, begun: float, arrived: float) -> StepTimes:
    part = (begun + 0.1, begun + 0.9)
    chunks, decode = (part,) * len(step.chunks), part if step.decode else None
    return StepTimes(begun, begun + 1.0, decode, chunks, arrived)


@asynccontextmanager
async def driven(
    limits: Limits | None = None, shelved: tuple[Shelved, ...] = ()
) -> AsyncIterator[tuple[Coordinator, TimedRanks, ManualClock]]:
    clock = ManualClock(100.0)
    coordinator = make_coordinator(limits=limits, clock=clock)
    ranks = TimedRanks(clock)
    ranks.on_shelf = shelved
    driving = asyncio.create_task(
        drive(coordinator, Epoch(1), ranks, trimmable=True, disk_bytes=1 << 20)
    )
    await wait_for(lambda: coordinator.scheduler)
    yield coordinator, ranks, clock
    driving.cancel()
    await asyncio.wait([driving])


def of(timeline: Timeline, track: Track) -> list[Event]:
    return [event for event in timeline.events if event.track is track]


async def test_steps_are_noted_with_the_times_of_every_rank() -> None:
    async with driven() as (coordinator, ranks, clock):
        timeline = Timeline(clock)
        generation = coordinator.submit(Order(PROMPT, GREEDY, 30, timeline=timeline))
        await wait_for(lambda: generation.finish)
        await wait_for(lambda: not coordinator.live.journal)
        assert coordinator.live.tracer._live == {}
    assert {step.timed for step in ranks.steps if step.decode or step.chunks} == {True}
    steps = list(timeline.steps)
    assert [step.seq for step in steps] == list(range(1, len(steps) + 1))
    assert sum(length for step in steps for _, _, length in step.chunks) == len(PROMPT)
    assert sum(sum(step.rows.values()) for step in steps) == 29
    for step in steps:
        for rank, ahead in zip(step.ranks, AHEAD, strict=True):
            assert abs(rank.offset.ahead - ahead) <= rank.offset.error
    prefill, decode = of(timeline, Track.PHASE)
    assert (prefill.name, decode.name, decode.details["tokens"]) == ("prefill", "decode", 30)
    assert prefill.end == decode.start


async def test_without_a_trace_no_step_is_timed_and_nothing_noted() -> None:
    async with driven() as (coordinator, ranks, clock):
        generation = coordinator.submit(Order(PROMPT, GREEDY, 30))
        await wait_for(lambda: generation.finish)
        timeline = Timeline(clock)
        assert {step.timed for step in ranks.steps} == {False}
        traced = coordinator.submit(Order(PROMPT, GREEDY, 3, timeline=timeline))
        await wait_for(lambda: traced.finish)
        assert {step.timed for step in ranks.steps if step.chunks} == {False, True}
        again = coordinator.submit(Order(PROMPT, GREEDY, 30))
        await wait_for(lambda: again.finish)
        assert not ranks.steps[-1].timed


async def test_who_waits_in_the_queue_sees_what_others_had_done() -> None:
    async with driven(Limits(parked=0, sequences=1)) as (coordinator, _, clock):
        first = coordinator.submit(Order(PROMPT, GREEDY, 30))
        timeline = Timeline(clock)
        second = coordinator.submit(Order((60, 70), GREEDY, 5, timeline=timeline))
        await wait_for(lambda: second.finish)
    (queued,) = of(timeline, Track.QUEUE)
    assert queued.name == "queued"
    assert queued.end - queued.start == pytest.approx(second.timing.queued)
    assert {request for step in timeline.steps for request in step.rows} == {first.id, second.id}


async def test_a_request_that_leaves_the_queue_has_waited_until_then() -> None:
    async with driven(Limits(parked=0, sequences=1)) as (coordinator, ranks, clock):
        ranks.gate.clear()
        coordinator.submit(Order(PROMPT, GREEDY, 500))
        timeline = Timeline(clock)
        waiting = coordinator.submit(Order((60, 70), GREEDY, 5, timeline=timeline))
        await wait_for(lambda: ranks.steps)
        clock.advance(3.0)
        waiting.cancel()
    (queued,) = timeline.events
    assert (queued.track, queued.start, queued.end) == (Track.QUEUE, 100.0, 103.0)


async def test_recovery_is_a_wait_and_the_step_that_was_lost_is_told() -> None:
    async with driven() as (coordinator, ranks, clock):
        timeline = Timeline(clock)
        generation = coordinator.submit(Order(PROMPT, GREEDY, 300, timeline=timeline))
        await wait_for(lambda: generation.progress.generated > 20)
        ranks.breaks = True
        await wait_for(lambda: coordinator.scheduler is None)
        clock.advance(7.0)
        again = TimedRanks(clock)
        driving = asyncio.create_task(drive(coordinator, Epoch(2), again, trimmable=True))
        await wait_for(lambda: generation.finish)
        driving.cancel()
        await asyncio.wait([driving])
    queued, recovery = of(timeline, Track.QUEUE)
    assert (queued.name, recovery.name) == ("queued", "recovery")
    assert recovery.end - recovery.start == pytest.approx(7.0)
    (lost,) = (step for step in timeline.steps if not step.ranks)
    assert (lost.epoch, lost.applied) == (1, recovery.start)
    assert {step.epoch for step in timeline.steps} == {1, 2}


async def test_reading_a_prefix_from_disk_is_noted() -> None:
    entry = Entry("ab" * 16)
    long = tuple(range(40, 240)) * 2
    async with driven(shelved=(Shelved(entry, "", long, 1000),)) as (coordinator, ranks, clock):
        timeline = Timeline(clock)
        generation = coordinator.submit(Order((*long, 50, 60), GREEDY, 5, timeline=timeline))
        await wait_for(lambda: ranks.orders)
        clock.advance(0.25)
        ranks.news.put_nowait(ShelfNews(Verb.STAGE, entry, ok=True))
        await wait_for(lambda: generation.finish)
    read = next(event for event in timeline.events if event.name == "read from disk")
    assert (read.track, read.end - read.start) == (Track.QUEUE, 0.25)


# Over HTTP


@asynccontextmanager
async def client(coordinator: FakeCoordinator, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(coordinator, **options) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        yield http


async def test_a_stream_is_traced_from_its_body_to_its_last_write(
    coordinator: FakeCoordinator,
) -> None:
    async with client(coordinator, trace=4) as http:
        answer = await http.post(CHAT, json=question(stream=True))
        shown = coordinator.generations[-1].id
        for name in (shown, answer.headers["x-request-id"], "last"):
            told = await http.get(f"/requests/{name}/trace")
            assert told.status_code == 200
            tracks = check_file(told.json())
    other = told.json()["otherData"]
    assert other["requests"] == [shown]
    assert not other["running"]
    server = {track: events for (process, track), events in tracks.items()}
    assert [event["name"] for event in server["http"]] == ["read the body", "prepare"]
    assert len(server["parser"]) == 3
    names = [event["name"] for event in server["sse"]]
    assert (names[0], names[-1]) == ("headers", "end") and "write" in names
    whole = server["request"][0]["args"]
    assert (whole["finish"], whole["completion_tokens"]) == (["stop"], 3)


async def test_one_that_runs_is_told_so_far(coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hello", gate, "world"]
    async with client(coordinator, trace=4) as http, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(http.post(CHAT, json=question()))
        await wait_for(lambda: gate.reached)
        told = (await http.get("/requests/last/trace")).json()
        assert told["otherData"]["running"]
        gate.open()
        assert (await asking).status_code == 200
        assert not (await http.get("/requests/last/trace")).json()["otherData"]["running"]


async def test_without_the_option_only_those_are_traced_that_ask(
    coordinator: FakeCoordinator,
) -> None:
    async with client(coordinator) as http:
        await http.post(CHAT, json=question())
        refused = await http.get("/requests/last/trace")
        assert refused.status_code == 404
        assert "--trace" in refused.json()["error"]["message"]
        await http.post(
            CHAT, json=question(), headers={"traceparent": SAMPLED["traceparent"][:-1] + "0"}
        )
        assert (await http.get("/requests/last/trace")).status_code == 404
        await http.post(CHAT, json=question(), headers=SAMPLED)
        told = await http.get("/requests/last/trace")
    assert told.json()["otherData"]["trace_id"] == TRACE


async def test_only_the_last_ones_are_kept_and_nothing_is_left_under_way(
    coordinator: FakeCoordinator,
) -> None:
    async with client(coordinator, trace=2) as http:
        for _ in range(3):
            await http.post(CHAT, json=question())
        ids = [one.id for one in coordinator.generations]
        found = [(await http.get(f"/requests/{one}/trace")).status_code for one in ids]
    assert found == [404, 200, 200]


async def test_a_refused_request_has_a_trace_that_says_why(coordinator: FakeCoordinator) -> None:
    coordinator.refuse = QueueFull("3 requests are waiting already", retry_after=5)
    async with client(coordinator, trace=2) as http:
        answer = await http.post(CHAT, json=question())
        assert answer.status_code == 429
        told = (await http.get(f"/requests/{answer.headers['x-request-id']}/trace")).json()
    (whole,) = (event for event in told["traceEvents"] if event["name"] == "request")
    assert whole["args"]["error"] == "QueueFull"


async def test_an_answer_that_outlives_its_client_is_traced_to_its_end(
    coordinator: FakeCoordinator,
) -> None:
    gate = Gate()
    coordinator.script = ["Hello", gate, "world"]
    headers = {"x-conversation-id": "talk"}
    async with client(coordinator, trace=2) as http:
        asked = http.build_request("POST", CHAT, json=question(stream=True), headers=headers)
        answer = await http.send(asked, stream=True)
        await wait_for(lambda: gate.reached)
        await answer.aclose()
        gate.open()

        async def over() -> dict[str, Any]:
            while True:
                told = (await http.get("/requests/last/trace")).json()
                if not told["otherData"]["running"]:
                    return dict(told)

        async with asyncio.timeout(5):
            tracks = check_file(await over())
    assert tracks["coordinator", "sse"][-1]["name"] == "end"


async def test_a_key_sees_its_own_requests_alone(
    coordinator: FakeCoordinator, tmp_path: Any
) -> None:
    path = tmp_path / "keys.json"
    mine, theirs = add_key(path, "mine"), add_key(path, "theirs")
    access = AccessPolicy(keys=KeyRing(path, ManualClock()))
    async with client(coordinator, trace=4, access=access) as http:
        await http.post(CHAT, json=question(), headers={"x-api-key": mine})
        shown = coordinator.generations[-1].id
        for name in (shown, "last"):
            for key, status in ((mine, 200), (theirs, 404)):
                told = await http.get(f"/requests/{name}/trace", headers={"x-api-key": key})
                assert told.status_code == status
        assert (await http.get(f"/requests/{shown}/trace")).status_code == 401


async def test_choices_share_a_trace(coordinator: FakeCoordinator) -> None:
    async with client(coordinator, trace=2) as http:
        await http.post(CHAT, json=question(n=2))
        told = (await http.get("/requests/last/trace")).json()
    check_file(told)
    assert told["otherData"]["requests"] == [one.id for one in coordinator.generations]


# To a collector


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.app = Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        return Response(b"", media_type="application/x-protobuf")

    @property
    def spans(self) -> dict[str, list[PbSpan]]:
        """By the name of the service that they are of."""
        found: dict[str, list[PbSpan]] = {}
        for request in self.requests:
            for each in request.resource_spans:
                names = {a.key: a.value.string_value for a in each.resource.attributes}
                for scoped in each.scope_spans:
                    found.setdefault(names["service.name"], []).extend(scoped.spans)
        return found


def value(span: PbSpan, name: str) -> Any:
    (found,) = (each.value for each in span.attributes if each.key == name)
    kind = found.WhichOneof("value")
    if kind == "array_value":
        return [item.string_value for item in found.array_value.values]
    return getattr(found, kind)


@asynccontextmanager
async def collecting(
    monkeypatch: pytest.MonkeyPatch, **environ: str
) -> AsyncIterator[tuple[Collector, Any]]:
    collector = Collector()
    async with running(collector.app) as port:
        asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **environ}
        for name, text in asked.items():
            monkeypatch.setenv(name, text)
        yield collector, otlp_exporter(asked)


async def test_a_collector_is_told_by_the_conventions(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        collecting(monkeypatch) as (collector, exporter),
        client(coordinator, exporter=exporter) as http,
    ):
        await http.post(CHAT, json=question(stream=True), headers=SAMPLED)
        await wait_for(lambda: collector.requests)
    (root,) = (span for span in collector.spans["tandem"] if span.kind == PbSpan.SPAN_KIND_SERVER)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert root.name == "chat org/fake-model"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tandem",
        "gen_ai.request.model": "org/fake-model",
        "gen_ai.response.id": coordinator.generations[-1].id,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": len(coordinator.order.prompt),
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.request.stream": True,
        "http.request.method": "POST",
    }
    assert {name: value(root, name) for name in expected} == expected
    others = [span for span in collector.spans["tandem"] if span is not root]
    assert {span.name for span in others} >= {"prepare", "parse", "write"}
    for span in others:
        assert span.trace_id == root.trace_id
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano


async def test_what_waits_is_sent_when_the_server_stops(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting(monkeypatch) as (collector, exporter):
        async with client(coordinator, exporter=exporter) as http:
            await http.post(CHAT, json=question())
        assert len(collector.requests) == 1


async def test_what_the_client_or_the_sampler_does_not_want_is_not_sent(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsampled = {"traceparent": SAMPLED["traceparent"][:-1] + "0"}
    async with collecting(monkeypatch) as (collector, exporter):
        async with client(coordinator, exporter=exporter) as http:
            await http.post(CHAT, json=question(), headers=unsampled)
            assert (await http.get("/requests/last/trace")).status_code == 404
        assert not collector.requests
    async with collecting(monkeypatch, OTEL_TRACES_SAMPLER="always_off") as (collector, exporter):
        async with client(coordinator, exporter=exporter, trace=2) as http:
            await http.post(CHAT, json=question())
            assert (await http.get("/requests/last/trace")).status_code == 200
        assert not collector.requests


async def test_a_collector_that_is_gone_costs_the_trace_alone(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    for name, text in asked.items():
        monkeypatch.setenv(name, text)
    async with client(coordinator, exporter=otlp_exporter(asked)) as http:
        for _ in range(2):
            assert (await http.post(CHAT, json=question())).status_code == 200
