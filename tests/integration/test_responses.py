"""The real openai client against /v1/responses and /v1/completions on a real uvicorn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import openai
import pytest
from pydantic import BaseModel

from cluster.core.errors import EpochEnded, QueueFull
from cluster.core.request import Finish, Piece
from tests.conftest import wait_for
from tests.unit.api.fake import FakeCoordinator, Gate, serving

MODEL = "org/fake-model"
PATH = "/v1/responses"


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator, sign_of_life=0.05) as port:
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


def events(text: str) -> list[dict[str, Any]]:
    lines = (line for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def texts(items: Any) -> list[str]:
    return [item.content[0].text for item in items]


def prompt(coordinator: FakeCoordinator) -> str:
    return coordinator.tokenizer.decode(coordinator.order.prompt)


async def test_whole(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.cached = 3
    answer = await client.responses.create(
        model=MODEL, input="Say hello", instructions="Be brief", max_output_tokens=9, temperature=0
    )
    assert answer.output_text == "Hello, world"
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    assert answer.id == coordinator.generations[0].id.replace("resp-", "resp_")
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(coordinator.order.prompt)
    assert answer.usage.input_tokens_details.cached_tokens == 3
    assert answer.usage.output_tokens == 3
    assert (coordinator.order.max_tokens, coordinator.order.sampling.temperature) == (9, 0.0)
    assert "Be brief" in prompt(coordinator)


async def test_kept_listed_and_deleted(client: openai.AsyncOpenAI) -> None:
    asked: Any = [{"role": "user", "content": word} for word in ("one", "two", "three")]
    made = await client.responses.create(model=MODEL, input=asked, metadata={"a": "b"})
    found = await client.responses.retrieve(made.id)
    assert found == made
    assert found.metadata == {"a": "b"}
    listed = [item async for item in client.responses.input_items.list(made.id, limit=1)]
    assert texts(listed) == ["three", "two", "one"]
    page = await client.responses.input_items.list(made.id, order="asc", limit=2)
    assert texts(page.data) == ["one", "two"]
    await client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    unkept = await client.responses.create(model=MODEL, input="a", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(unkept.id)


async def test_a_conversation_by_id(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    first = await client.responses.create(model=MODEL, input="first", instructions="Be brief")
    coordinator.script = ["Second answer"]
    second = await client.responses.create(
        model=MODEL, input="second", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    await client.responses.create(model=MODEL, input="third", previous_response_id=second.id)
    said = prompt(coordinator)
    places = [
        said.index(text) for text in ("first", "Hello, world", "second", "Second answer", "third")
    ]
    assert places == sorted(places)
    assert "brief" not in said
    (item,) = second.output
    reference: Any = [{"type": "item_reference", "id": item.id}, {"role": "user", "content": "?"}]
    await client.responses.create(model=MODEL, input=reference)
    assert "Second answer" in prompt(coordinator)
    with pytest.raises(openai.NotFoundError) as raised:
        await client.responses.create(model=MODEL, input="a", previous_response_id="resp_0")
    assert raised.value.param == "previous_response_id"


async def test_stream(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="a") as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.type for event in seen] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert final.output_text == "Hello, world"
    found = await client.responses.retrieve(final.id)
    assert found.output_text == final.output_text
    replayed = await client.responses.retrieve(final.id, stream=True, starting_after=5)
    assert [event.sequence_number async for event in replayed] == [6, 7, 8, 9, 10]


class Person(BaseModel):
    name: str
    age: int


async def test_parse(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = ['{"name": "Ada",', ' "age": 36}']
    parsed = await client.responses.parse(model=MODEL, input="a", text_format=Person)
    assert parsed.output_parsed == Person(name="Ada", age=36)
    assert coordinator.order.grammar
    async with client.responses.stream(model=MODEL, input="a", text_format=Person) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Person(name="Ada", age=36)


async def test_events_go_out_at_once_with_signs_of_life(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = [gate, "late"]
    body = {"model": MODEL, "input": "a", "stream": True}
    async with http.stream("POST", PATH, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = ""
        async for some in answer.aiter_text():
            text += some
            if "\n: " in text:  # a comment
                gate.open()
    begun = [event["type"] for event in events(text.partition("\n: ")[0])]
    assert begun == ["response.created", "response.in_progress", "response.in_progress"]
    assert "data: [DONE]" not in text
    told = events(text)
    assert told[-1]["type"] == "response.completed"
    # A sign of life has the number of the event before it.
    numbers = [event["sequence_number"] for event in told]
    assert numbers[:3] == [0, 1, 1]
    assert sorted(set(numbers)) == list(range(numbers[-1] + 1))


async def test_cut_off(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hel", Finish.LENGTH]
    answer = await client.responses.create(model=MODEL, input="a")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


async def test_failures(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hel", EpochEnded("a node is gone")]
    with pytest.raises(openai.InternalServerError) as raised:
        await client.responses.create(model=MODEL, input="a")
    assert raised.value.code == "epoch_ended"
    stream = await client.responses.create(model=MODEL, input="a", stream=True)
    seen = [event async for event in stream]
    assert [event.type for event in seen[-2:]] == ["error", "response.failed"]
    last: Any = seen[-1]
    found = await client.responses.retrieve(last.response.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.message == "a node is gone"
    assert found.output_text == "Hel"
    coordinator.refuse = QueueFull("full", retry_after=3)
    ways: list[Any] = [{}, {"stream": True}, {"background": True}]
    for options in ways:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.responses.create(model=MODEL, input="a", **options)
        assert refused.value.response.headers["retry-after"] == "3"


async def test_a_client_that_leaves_cancels(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", Gate(), "never"]
    stream = await client.responses.create(model=MODEL, input="a", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    (generation,) = coordinator.generations
    await wait_for(lambda: generation.closed == 1)
    assert generation.finish is Finish.CANCELLED
    found = await client.responses.retrieve(generation.id.replace("-", "_"))
    assert (found.status, found.output_text) == ("cancelled", "Hel")


# In the background


async def test_background(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    made = await client.responses.create(model=MODEL, input="a", background=True)
    assert (made.status, made.background, made.output) == ("queued", True, [])
    (generation,) = coordinator.generations
    await wait_for(lambda: gate.reached)
    found = await client.responses.retrieve(made.id)
    assert (found.status, found.output_text, found.usage) == ("in_progress", "Hel", None)
    with pytest.raises(openai.BadRequestError, match="in progress"):
        await client.responses.create(model=MODEL, input="b", previous_response_id=made.id)
    gate.open()
    await wait_for(lambda: generation.closed == 1)
    found = await client.responses.retrieve(made.id)
    assert (found.status, found.output_text) == ("completed", "Hello")
    assert generation.finish is Finish.STOP
    assert await client.responses.cancel(made.id) == found


async def test_background_events_are_followed_again(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    stream = await client.responses.create(model=MODEL, input="a", background=True, stream=True)
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    assert [event.type for event in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    name = seen[0].response.id
    numbers: dict[int, list[int]] = {}

    async def follow(after: int) -> None:
        stream = await client.responses.retrieve(name, stream=True, starting_after=after)
        texts = []
        numbers[after] = []
        async for event in stream:
            numbers[after].append(event.sequence_number)
            texts += [event.delta] if event.type == "response.output_text.delta" else []
        assert "".join(texts) == ("lo" if after >= 5 else "Hello")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for after in (0, seen[-1].sequence_number):
                tasks.start_soon(follow, after)
            await wait_for(lambda: len(numbers) == 2)
            gate.open()
    assert numbers == {0: list(range(1, 11)), 5: [6, 7, 8, 9, 10]}
    async with client.responses.stream(response_id=name, starting_after=5) as again:
        assert [event.sequence_number async for event in again] == [6, 7, 8, 9, 10]
        assert (await again.get_final_response()).output_text == "Hello"


async def test_cancel(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hel", gate := Gate(), "never"]
    made = await client.responses.create(model=MODEL, input="a", background=True)
    await wait_for(lambda: gate.reached)
    cancelled = await client.responses.cancel(made.id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "Hel")
    (generation,) = coordinator.generations
    assert (generation.finish, generation.closed) == (Finish.CANCELLED, 1)
    replayed = await client.responses.retrieve(made.id, stream=True)
    last: Any = [event async for event in replayed][-1]
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")


async def test_only_what_is_in_the_background_is_cancelled_by_name(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.responses.create(model=MODEL, input="a")
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(made.id)


async def test_deleted_while_it_runs(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = [gate := Gate()]
    made = await client.responses.create(model=MODEL, input="a", background=True)
    await wait_for(lambda: gate.reached)
    await client.responses.delete(made.id)
    (generation,) = coordinator.generations
    await wait_for(lambda: generation.closed == 1)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_a_background_failure(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", EpochEnded("a node is gone")]
    made = await client.responses.create(model=MODEL, input="a", background=True)
    (generation,) = coordinator.generations
    await wait_for(lambda: generation.closed == 1)
    found = await client.responses.retrieve(made.id)
    assert (found.status, found.output_text) == ("failed", "Hel")


async def test_a_bug_in_one_ends_no_other(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    bug: Any = [Gate(), Piece("a", None)]
    coordinator.scripts = [[gate, "a"], bug]
    first = await client.responses.create(model=MODEL, input="a", background=True)
    await client.responses.create(model=MODEL, input="a", background=True)
    generation, broken = coordinator.generations
    bug[0].open()
    await wait_for(lambda: broken.closed == 1)
    gate.open()
    await wait_for(lambda: generation.closed == 1)
    assert (await client.responses.retrieve(first.id)).status == "completed"
    name = broken.id.replace("-", "_")
    assert (await client.responses.retrieve(name)).status == "failed"


async def test_the_server_stops(coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hel", gate := Gate()]
    with anyio.fail_after(10):
        async with serving(coordinator) as port:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=10) as http:
                await http.post(PATH, json={"input": "a", "background": True})
                await wait_for(lambda: gate.reached)
    (generation,) = coordinator.generations
    assert generation.closed == 1
    assert generation.finish is Finish.CANCELLED


# Completions


async def test_completions(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    answer = await client.completions.create(model=MODEL, prompt="Once upon", n=2, seed=3)
    assert [choice.text for choice in answer.choices] == ["Hello, world"] * 2
    assert coordinator.order.prompt == coordinator.tokenizer.encode("Once upon")
    assert coordinator.order.max_tokens == 16
    assert answer.id == coordinator.generations[0].id
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    stream = await client.completions.create(
        model=MODEL, prompt=[[5, 6]], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert coordinator.order.prompt == (5, 6)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "Hello, world"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 2
    coordinator.script = ["a", EpochEnded("gone")]
    with pytest.raises(openai.APIError) as raised:
        _ = [
            chunk
            async for chunk in await client.completions.create(model=MODEL, prompt="a", stream=True)
        ]
    assert raised.value.code == "epoch_ended"
