"""What holds for every generating path: one way in, signs of life, and the same text streamed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from api.app import create_app
from cluster import demo
from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.core.ids import Epoch
from cluster.core.plan import Step
from cluster.core.request import Finish, Order, Phase
from cluster.core.view import Health
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, make_coordinator
from tests.unit.api.fake import FakeCoordinator, Gate, Now, running, serving

SAID = {"messages": [{"role": "user", "content": "Say hello"}]}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**SAID, "max_tokens": 8},
    "/bench/chat/completions": {**SAID, "max_tokens": 8},
    "/v1/completions": {"prompt": "Say hello", "max_tokens": 8},
    "/v1/responses": {"input": "Say hello", "max_output_tokens": 8},
    "/v1/messages": {**SAID, "max_tokens": 8},
    "/api/chat": {**SAID, "options": {"num_predict": 8}},
    "/api/generate": {"prompt": "Say hello", "options": {"num_predict": 8}},
}
EVERY = pytest.mark.parametrize("path", PATHS)
STREAM = pytest.mark.parametrize("stream", [True, False])
BEAT = 0.05


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(demo.folder())


def text_of(path: str, body: Any) -> str:
    """The text of a whole answer."""
    match path:
        case "/v1/chat/completions" | "/bench/chat/completions":
            text = body["choices"][0]["message"]["content"]
        case "/v1/completions":
            text = body["choices"][0]["text"]
        case "/v1/responses":
            text = "".join(part["text"] for item in body["output"] for part in item["content"])
        case "/v1/messages":
            text = "".join(block["text"] for block in body["content"])
        case "/api/chat":
            text = body["message"]["content"]
        case _:
            text = body["response"]
    assert isinstance(text, str)
    return text


def deltas_of(path: str, streamed: str) -> list[str]:
    """The pieces of text of a stream."""
    if path.startswith("/api/"):
        return [text_of(path, json.loads(line)) for line in streamed.splitlines()]
    lines = [line[6:] for line in streamed.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    match path:
        case "/v1/responses":
            return [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        case "/v1/messages":
            return [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
        case "/v1/completions":
            return [choice["text"] for e in events for choice in e["choices"]]
        case _:
            return [c["delta"].get("content", "") for e in events for c in e["choices"]]


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
        yield http


class Watched(FakeRanks):
    """Fails when a step names a request whose tokens would have nowhere to go."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator
        self.admitted = 0

    async def send(self, step: Step) -> None:
        scheduler = self._coordinator.scheduler
        assert scheduler is not None
        for request in scheduler.sequences:
            assert request in self._coordinator.live.channels
        self.admitted += len(step.admit)
        await super().send(step)


@STREAM
@EVERY
async def test_one_submit_registers_the_channel_first(path: str, stream: bool) -> None:
    """Results may come before a step's sending has returned, and still nothing is lost."""
    coordinator = make_coordinator()
    submitted: list[Order] = []
    submit = coordinator.submit

    def counted(order: Order, **named: Any) -> Any:
        submitted.append(order)
        return submit(order, **named)

    coordinator.submit = counted  # type: ignore[method-assign]
    ranks = Watched(coordinator)
    driving = asyncio.create_task(drive(coordinator, Epoch(1), ranks, trimmable=True))
    try:
        await wait_for(lambda: coordinator.scheduler)
        async with running(create_app(coordinator)) as port, asking(port) as http:
            answer = await http.post(path, json={**PATHS[path], "stream": stream})
            assert answer.status_code == 200, answer.text
            whole = "".join(deltas_of(path, answer.text)) if stream else None
            assert len(text_of(path, answer.json()) if whole is None else whole) == 8
            assert (len(submitted), ranks.admitted) == (1, 1)
            await wait_for(lambda: len(coordinator.live.channels) == 0)
            assert coordinator.live.channels.orphan_tokens == 0
    finally:
        driving.cancel()
        await asyncio.wait([driving])


HARD = ["今天", "天气", 1, "很好 👩‍👩‍👧‍👦", " مرحبا", 2, " e\u0301", "\n\nend  "]


@EVERY
async def test_streamed_text_equals_the_whole(coordinator: FakeCoordinator, path: str) -> None:
    coordinator.script = [*HARD, Finish.LENGTH]
    async with serving(coordinator) as port, asking(port) as http:
        whole = await http.post(path, json={**PATHS[path], "stream": False})
        streamed = await http.post(path, json={**PATHS[path], "stream": True})
    text = text_of(path, whole.json())
    assert text == "".join(piece for piece in HARD if isinstance(piece, str))
    pieces = deltas_of(path, streamed.text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@EVERY
async def test_signs_of_life_in_every_phase(coordinator: FakeCoordinator, path: str) -> None:
    gates = [Gate() for _ in range(3)]
    coordinator.script = [
        gates[0], Now(Phase.PREFILL, 2), gates[1], "Hi", gates[2], " there",
    ]  # fmt: skip
    async with (
        serving(coordinator, BEAT) as port,
        asking(port) as http,
        http.stream("POST", path, json={**PATHS[path], "stream": True}) as answer,
    ):
        assert answer.status_code == 200
        got = b""
        lines = answer.aiter_bytes()
        for gate in gates:
            await wait_for(lambda gate=gate: gate.reached)
            with anyio.fail_after(5):
                for _ in range(2):  # one may have been on its way before
                    got += await anext(lines)
            gate.open()
        async for more in lines:
            got += more
    assert "".join(deltas_of(path, got.decode())) == "Hi there"


@EVERY
async def test_no_sign_of_life_from_what_is_stuck(coordinator: FakeCoordinator, path: str) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate, " there"]
    coordinator.healthy = Health(False, "a step is past its deadline")
    asked = 0
    health = coordinator.health

    def counted() -> Health:
        nonlocal asked
        asked += 1
        return health()

    coordinator.health = counted  # type: ignore[method-assign]
    async with (
        serving(coordinator, BEAT) as port,
        asking(port) as http,
        http.stream("POST", path, json={**PATHS[path], "stream": True}) as answer,
    ):
        await wait_for(lambda: gate.reached and asked >= 3)
        gate.open()
        body = (await answer.aread()).decode()
    assert "".join(deltas_of(path, body)) == "Hi there"
    signs = [line for line in body.splitlines() if line.startswith(":") or "ping" in line]
    # Anthropic's streams begin with a ping, as its own do.
    assert len(signs) == (2 if path == "/v1/messages" else 0), signs
    if path.startswith("/api/"):
        assert len(body.splitlines()) == 3


@EVERY
async def test_a_conversation_is_followed_again(coordinator: FakeCoordinator, path: str) -> None:
    async with serving(coordinator) as port, asking(port) as http:
        named = {"X-Conversation-Id": "c"}
        first = await http.post(path, json={**PATHS[path], "stream": True}, headers=named)
        again = await http.get("/v1/stream/c")
        assert first.status_code == again.status_code == 200
        assert first.content == again.content
        assert first.headers["content-type"] == again.headers["content-type"]
        if "event-stream" in first.headers["content-type"]:
            place = int(re.findall(r"^id: (\d+)$", first.text, re.MULTILINE)[0])
            rest = await http.get("/v1/stream/c", headers={"Last-Event-ID": str(place)})
            assert first.content[place:] == rest.content
        keyed = {"Idempotency-Key": "k"}
        body = {**PATHS[path], "stream": False}
        whole = [await http.post(path, json=body, headers=keyed) for _ in range(2)]
        assert whole[0].content == whole[1].content
        assert len(coordinator.generations) == 2
