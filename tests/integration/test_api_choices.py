"""Several choices in one answer: beside each other, and over together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from cluster.core.errors import EpochEnded
from cluster.core.request import Finish
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, serving

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]
MODEL = "org/fake-model"


@pytest.fixture
async def url(coordinator: FakeCoordinator) -> AsyncIterator[str]:
    async with serving(coordinator) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_whole(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.scripts = [["one"], ["two", "!", Finish.LENGTH], [3, "three"]]
    coordinator.cached = 2
    answer = await client.chat.completions.create(model=MODEL, messages=USER, n=3, seed=11)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["one", "two!", "three"]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length", "stop"]
    assert answer.id == coordinator.generations[0].id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(coordinator.order.prompt)
    assert answer.usage.completion_tokens == 1 + 2 + 4
    assert [one.order.sampling.seed for one in coordinator.generations] == [11, 12, 13]
    assert [one.closed for one in coordinator.generations] == [1, 1, 1]


async def test_stream(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.scripts = [["one", gate, " more"], ["two", Finish.LENGTH]]
    stream = await client.chat.completions.create(
        model=MODEL, messages=USER, n=2, stream=True, stream_options={"include_usage": True}
    )
    text: dict[int, str] = defaultdict(str)
    finish: dict[int, str] = {}
    roles = []
    chunks = []
    async for chunk in stream:
        chunks.append(chunk)
        for choice in chunk.choices:
            assert choice.index not in finish
            if choice.delta.role is not None:
                roles.append((choice.index, text[choice.index]))
            text[choice.index] += choice.delta.content or ""
            if choice.finish_reason is not None:
                finish[choice.index] = choice.finish_reason
        if 1 in finish:
            gate.open()  # the first choice goes on when the second is over
    assert text == {0: "one more", 1: "two"}
    assert finish == {0: "stop", 1: "length"}
    assert list(finish) == [1, 0]
    assert sorted(roles) == [(0, ""), (1, "")]
    assert {chunk.id for chunk in chunks} == {coordinator.generations[0].id}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("failure", [EpochEnded("rank 1 was lost"), Finish.CANCELLED])
async def test_one_that_fails_ends_all(
    url: str, coordinator: FakeCoordinator, stream: bool, failure: EpochEnded | Finish
) -> None:
    gate = Gate()  # never opened
    coordinator.scripts = [["one", gate], ["two", failure], ["three", gate]]
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        answer = await http.post(CHAT, json=question(n=3, stream=stream))
    expected = "rank 1 was lost" if isinstance(failure, EpochEnded) else "cancelled"
    assert expected in answer.text
    if stream:
        last = answer.text.strip().split("\n\n")[-1].removeprefix("data: ")
        assert "error" in json.loads(last)
        assert "[DONE]" not in answer.text
    else:
        assert answer.status_code == 503
    first, second, third = coordinator.generations
    assert first.finish is third.finish is Finish.CANCELLED
    assert second.finish is (failure if isinstance(failure, Finish) else Finish.FAILED)
    assert [one.closed for one in coordinator.generations] == [1, 1, 1]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_all(
    url: str, coordinator: FakeCoordinator, stream: bool
) -> None:
    gate = Gate()
    coordinator.scripts = [["one", gate], ["two"], ["three", gate]]
    async with httpx.AsyncClient(base_url=url) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(CHAT, json=question(n=3, stream=stream), timeout=0.3)
    assert gate.reached
    await wait_for(lambda: [one.closed for one in coordinator.generations] == [1, 1, 1])
    cancelled, done = Finish.CANCELLED, Finish.STOP
    assert [one.finish for one in coordinator.generations] == [cancelled, done, cancelled]
