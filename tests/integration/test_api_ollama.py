"""The real ollama client and httpx against the API on a real uvicorn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import ollama
import pytest

from cluster.core.errors import EpochEnded, NotReady, QueueFull
from cluster.core.request import Finish, Piece, Timing, TokenLogprob
from cluster.core.view import Health
from tests.conftest import wait_for
from tests.unit.api.fake import FakeCoordinator, Gate, serving

MODEL = "org/fake-model"
USER = [{"role": "user", "content": "Say hello"}]


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator, sign_of_life=0.05) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=f"http://127.0.0.1:{port}", timeout=10)
    yield client
    await client._client.aclose()


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        yield client


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:latest"])
async def test_chat(client: ollama.AsyncClient, coordinator: FakeCoordinator, model: str) -> None:
    options = {"temperature": 0, "seed": 7, "num_predict": 9, "stop": ["END"], "num_ctx": 4096}
    answer = await client.chat(model, USER, options=options, keep_alive="5m")
    assert answer.message.content == "Hello, world"
    assert (answer.message.role, answer.model) == ("assistant", MODEL)
    assert (answer.done, answer.done_reason) == (True, "stop")
    order = coordinator.order
    assert answer.prompt_eval_count == len(order.prompt)
    assert answer.eval_count == 3
    assert answer.total_duration is not None
    assert (order.stop, order.max_tokens) == (("END",), 9)
    assert (order.sampling.temperature, order.sampling.seed) == (0.0, 7)


async def test_chat_as_a_stream(client: ollama.AsyncClient, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hello", ", ", "world", Finish.LENGTH]
    parts = [part async for part in await client.chat(MODEL, USER, stream=True)]
    assert [part.message.content for part in parts] == ["Hello", ", ", "world", ""]
    assert [part.done for part in parts] == [False, False, False, True]
    assert parts[-1].done_reason == "length"
    assert parts[-1].eval_count == 3


async def test_generate(client: ollama.AsyncClient, coordinator: FakeCoordinator) -> None:
    answer = await client.generate(MODEL, "Say hello", system="Be brief")
    assert answer.response == "Hello, world"
    assert answer.done_reason == "stop"
    messages = [{"role": "system", "content": "Be brief"}, *USER]
    assert coordinator.order.prompt == coordinator.tokenizer.render(messages)
    parts = [part async for part in await client.generate(MODEL, "Say hello", stream=True)]
    assert [part.response for part in parts] == ["Hello", ", ", "world", ""]
    await client.generate(MODEL, "Say", raw=True)
    assert coordinator.order.prompt == coordinator.tokenizer.encode("Say")


async def test_a_stream_is_what_comes_unless_it_is_declined(http: httpx.AsyncClient) -> None:
    asked = {"model": MODEL, "messages": USER}
    answer = await http.post("/api/chat", json=asked)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Hello, world"
    assert all(line["model"] == MODEL and line["created_at"].endswith("Z") for line in lines)
    answer = await http.post("/api/chat", json={**asked, "stream": False})
    assert answer.headers["content-type"] == "application/json"


async def test_durations(client: ollama.AsyncClient, coordinator: FakeCoordinator) -> None:
    gate = Gate()
    coordinator.script = [gate, "a"]
    async with anyio.create_task_group() as tasks:

        async def measure() -> None:
            await wait_for(lambda: gate.reached)
            coordinator.generations[0].timing = Timing(0.25, 0.5, 1.0, 1.75, 0.75)
            gate.open()

        tasks.start_soon(measure)
        answer = await client.chat(MODEL, USER)
    assert (answer.total_duration, answer.load_duration) == (1_750_000_000, 250_000_000)
    assert (answer.prompt_eval_duration, answer.eval_duration) == (500_000_000, 1_000_000_000)


async def test_tools_and_calls_of_earlier_turns(
    client: ollama.AsyncClient, coordinator: FakeCoordinator
) -> None:
    def weather(city: str) -> str:
        """What the weather is like.

        Args:
          city: Where.
        """
        return city

    answer = await client.chat(MODEL, USER, tools=[weather])
    assert answer.message.content == "Hello, world"
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    turns = [*USER, {"role": "assistant", "content": "Well", "tool_calls": [call]}]
    assert (await client.chat(MODEL, turns, tools=[weather])).done


@pytest.mark.parametrize(
    "form", ["json", {"type": "object", "properties": {"a": {"type": "integer"}}}]
)
async def test_format(client: ollama.AsyncClient, coordinator: FakeCoordinator, form: Any) -> None:
    coordinator.script = ['{"a": 1}']
    answer = await client.chat(MODEL, USER, format=form)
    assert json.loads(answer.message.content or "") == {"a": 1}
    assert coordinator.order.grammar


@pytest.mark.parametrize("think", [True, False, "low"])
async def test_think(client: ollama.AsyncClient, think: Any) -> None:
    assert (await client.chat(MODEL, USER, think=think)).message.content == "Hello, world"


async def test_logprobs(client: ollama.AsyncClient, coordinator: FakeCoordinator) -> None:
    other = TokenLogprob("b", b"b", -2.0)
    coordinator.script = [Piece("a", 1, (TokenLogprob("a", b"a", -0.5, (other,)),))]
    answer = await client.chat(MODEL, USER, logprobs=True, top_logprobs=1)
    assert answer.logprobs is not None
    assert answer.logprobs[0].logprob == -0.5
    assert answer.logprobs[0].top_logprobs is not None
    assert answer.logprobs[0].top_logprobs[0].token == "b"
    parts = [part async for part in await client.generate(MODEL, "a", stream=True, logprobs=True)]
    assert parts[0].logprobs is not None
    assert (parts[0].response, parts[0].logprobs[0].token) == ("a", "a")


async def test_what_is_there(client: ollama.AsyncClient) -> None:
    (model,) = (await client.list()).models
    assert model.model == MODEL
    assert model.modified_at is not None
    assert len(model.digest or "") == 64
    (model,) = (await client.ps()).models
    assert model.model == MODEL
    assert model.context_length == 512
    assert model.expires_at is not None
    shown = await client.show(f"{MODEL}:latest")
    assert shown.modelinfo is not None
    assert shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"] == 512
    assert "completion" in (shown.capabilities or [])


async def test_nothing_is_loaded_yet(
    client: ollama.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.healthy = Health(False, "loading")
    assert list((await client.ps()).models) == []
    with pytest.raises(ollama.ResponseError, match="loading") as caught:
        await client.generate(MODEL)
    assert caught.value.status_code == 503


async def test_loading_and_unloading(
    client: ollama.AsyncClient, coordinator: FakeCoordinator
) -> None:
    assert (await client.generate(MODEL)).done_reason == "load"
    assert (await client.generate(MODEL, "", keep_alive=0)).done_reason == "unload"
    assert (await client.chat(MODEL)).done_reason == "load"
    assert (await client.chat(MODEL, [], keep_alive="0s")).done_reason == "unload"
    parts = [part async for part in await client.generate(MODEL, stream=True)]
    assert [(part.done, part.response) for part in parts] == [(True, "")]
    assert coordinator.generations == []
    with pytest.raises(ollama.ResponseError, match="not served") as caught:
        await client.generate("llama3")
    assert caught.value.status_code == 404


async def test_the_root(http: httpx.AsyncClient) -> None:
    answer = await http.get("/")
    assert answer.text.startswith("Ollama is running")
    assert answer.headers["content-type"].startswith("text/plain")
    assert (await http.head("/")).status_code == 200
    version = (await http.get("/api/version")).json()
    assert version["tandem"] != version["version"]


async def test_what_is_not_possible(client: ollama.AsyncClient, http: httpx.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="embeddings are not supported") as caught:
        await client.embed(MODEL, "text")
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="not supported"):
        await client.embeddings(MODEL, "text")
    with pytest.raises(ollama.ResponseError, match="fetching models"):
        await client.pull(MODEL)
    with pytest.raises(ollama.ResponseError, match="uploading models"):
        await client.push(MODEL)
    with pytest.raises(ollama.ResponseError, match="making models"):
        await client.create("mine", from_=MODEL)
    with pytest.raises(ollama.ResponseError, match="copying models"):
        await client.copy(MODEL, "mine")
    with pytest.raises(ollama.ResponseError, match="deleting models"):
        await client.delete(MODEL)
    answer = await http.get("/api/none")
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


async def test_errors(client: ollama.AsyncClient, coordinator: FakeCoordinator) -> None:
    with pytest.raises(ollama.ResponseError, match="not served") as caught:
        await client.show("llama3")
    assert caught.value.status_code == 404
    for error, status in [
        (QueueFull("full", retry_after=3), 429),
        (NotReady("not yet", retry_after=3), 503),
    ]:
        coordinator.refuse = error
        with pytest.raises(ollama.ResponseError, match=str(error)) as caught:
            await client.chat(MODEL, USER)
        assert caught.value.status_code == status
        with pytest.raises(ollama.ResponseError, match=str(error)) as caught:
            [part async for part in await client.chat(MODEL, USER, stream=True)]
        assert caught.value.status_code == status
    coordinator.refuse = None
    coordinator.script = ["Hel", EpochEnded("a node was lost")]
    with pytest.raises(ollama.ResponseError, match="a node was lost"):
        await client.chat(MODEL, USER)
    got: list[str | None] = []
    with pytest.raises(ollama.ResponseError, match="a node was lost"):
        async for part in await client.chat(MODEL, USER, stream=True):
            got.append(part.message.content)  # noqa: PERF401 - an error comes later
    assert got == ["Hel"]


async def test_signs_of_life_are_parts_that_say_nothing(
    client: ollama.AsyncClient, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = [gate, "Hello"]
    said = []
    async for part in await client.generate(MODEL, "a", stream=True):
        said.append(part.response)
        if len(said) == 2:
            gate.open()
    assert said == ["", "", "Hello", ""]
