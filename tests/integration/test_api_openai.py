"""The real openai client and httpx against the API on a real uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import structlog
from openai.types.chat import ChatCompletionMessageParam

from cluster.coordinator.coordinator import Coordinator
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    DeadlinePassed,
    EpochEnded,
    NotReady,
    QueueFull,
    ShuttingDown,
    TandemError,
)
from cluster.core.request import Finish
from cluster.core.view import Health, ServedModel
from tests.unit.api.fake import CHAT, FakeCoordinator, question, serving

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        yield client


async def test_whole_answer(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.cached = 3
    answer = await client.chat.completions.create(
        model="org/fake-model", messages=USER, temperature=0, seed=-1, stop="END", max_tokens=9
    )
    assert answer.choices[0].message.content == "Hello, world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id == coordinator.generations[0].id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(coordinator.order.prompt)
    assert answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer._request_id
    order = coordinator.order
    assert (order.stop, order.max_tokens) == (("END",), 9)
    assert (order.sampling.temperature, order.sampling.seed) == (0.0, 2**64 - 1)


async def test_stream(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hello", 2, ", world", Finish.LENGTH]
    stream = await client.chat.completions.create(
        model="org/fake-model", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello, world"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_an_empty_answer_has_a_role_too(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = [1]
    stream = await client.chat.completions.create(
        model="org/fake-model", messages=USER, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["org/fake-model"]
    assert (await client.models.retrieve("org/fake-model")).id == "org/fake-model"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


async def test_an_error_in_a_stream_is_the_clients_exception(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", EpochEnded("rank 1 was lost")]
    stream = await client.chat.completions.create(
        model="org/fake-model", messages=USER, stream=True
    )
    with pytest.raises(openai.APIError, match="rank 1 was lost"):
        [chunk async for chunk in stream]


async def test_the_events_of_a_failed_stream(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", EpochEnded("rank 1 was lost")]
    answer = await http.post(CHAT, json=question(stream=True))
    assert answer.status_code == 200
    *_, last = answer.text.strip().split("\n\n")
    assert last == (
        'data: {"error":{"message":"rank 1 was lost","type":"server_error","param":null,'
        '"code":"epoch_ended","retry_after":1}}'
    )
    assert "[DONE]" not in answer.text
    assert "finish_reason" not in answer.text.replace('"finish_reason":null', "")


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_by_somebody_else_is_no_success(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, stream: bool
) -> None:
    coordinator.script = ["Hel", Finish.CANCELLED]
    answer = await http.post(CHAT, json=question(stream=stream))
    assert "cancelled" in answer.text
    assert "[DONE]" not in answer.text
    assert answer.status_code == (200 if stream else 503)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (QueueFull("128 requests wait", retry_after=2.5), 429, "queue_full", "3"),
        (NotReady("loading", retry_after=0.1), 503, "not_ready", "1"),
        (ShuttingDown("stopping", retry_after=5), 503, "shutting_down", "5"),
    ],
)
async def test_busy(
    http: httpx.AsyncClient,
    coordinator: FakeCoordinator,
    stream: bool,
    error: TandemError,
    status: int,
    code: str,
    retry_after: str,
) -> None:
    coordinator.refuse = error
    answer = await http.post(CHAT, json=question(stream=stream))
    assert (answer.status_code, answer.headers["retry-after"]) == (status, retry_after)
    assert answer.json()["error"]["code"] == code


async def test_before_the_tokenizer_is_loaded() -> None:
    model = ServedModel("early", 64, 0, demo=False)
    early = Coordinator(model, limits=Limits(), pacing=Pacing(), clock=SystemClock())
    async with (
        serving(early) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        answer = await http.post(CHAT, json=question())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert (await http.get("/health")).status_code == 503


async def test_failures_of_a_whole_answer(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", DeadlinePassed("7200 s in all")]
    answer = await http.post(CHAT, json=question())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_passed")
    assert coordinator.generations[0].closed == 1


async def test_every_answer_has_an_id_of_its_own(http: httpx.AsyncClient) -> None:
    paths = ["/health", "/cluster", "/v1/models", "/nothing", CHAT]
    ids = {(await http.get(path)).headers["x-request-id"] for path in paths}
    assert len(ids) == len(paths)


async def test_unknown_paths_and_methods(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = await http.get(CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_prefix_is_optional(http: httpx.AsyncClient, prefix: str) -> None:
    assert (await http.get(f"{prefix}/models")).status_code == 200
    assert (await http.get(f"{prefix}/models/org/fake-model")).status_code == 200
    assert (await http.post(f"{prefix}/chat/completions", json=question())).status_code == 200


async def test_health(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reason": "serving"})
    coordinator.healthy = Health(False, "loading weights")
    answer = await http.get("/health")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "loading weights"


async def test_cluster(http: httpx.AsyncClient) -> None:
    view = (await http.get("/cluster")).json()
    assert view["model"]["id"] == "org/fake-model"
    assert view["health"] == {"ok": True, "reason": "serving", "recovering": False}
    assert view["counters"]["orphan_tokens"] == 0


async def test_a_bug_is_a_500_in_shape(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.refuse = RuntimeError("nobody foresaw this")  # type: ignore[assignment]
    answer = await http.post(CHAT, json=question())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "nobody foresaw this" in caplog.text
    assert (await http.get("/health")).status_code == 200


async def test_the_log_has_the_ids_and_no_text(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    with structlog.testing.capture_logs() as lines:
        done = await http.post(CHAT, json=question())
        refused = await http.post(CHAT, json=question(audio={"voice": "alloy"}))
    ended, no = [line for line in lines if line["event"] in ("ended", "refused")]
    assert ended["request_id"] == done.headers["x-request-id"]
    assert ended["id"] == done.json()["id"]
    assert ended["finish"] == "stop"
    assert no["request_id"] == refused.headers["x-request-id"]
    assert no["error"] == "Unsupported"
    assert "hello" not in str(lines).lower()
