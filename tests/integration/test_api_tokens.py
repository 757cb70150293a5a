"""/tokenize, /detokenize, /v1/cancel, /bench/chat/completions and /docs on a real uvicorn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from cluster.core.request import Finish
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, serving


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(coordinator) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client


@pytest.mark.parametrize("text", ["", "The quick brown fox", "今天天气很好 👩‍👩‍👧‍👦", "<|end|>"])
@pytest.mark.parametrize("field", ["content", "prompt"])
async def test_text_to_tokens(
    http: httpx.AsyncClient, tokenizer: Tokenizer, text: str, field: str
) -> None:
    answer = (await http.post("/tokenize", json={field: text})).json()
    ids = list(tokenizer.encode(text))
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 512}


async def test_tokens_to_text_and_their_pieces(http: httpx.AsyncClient) -> None:
    text = "The quick brown fox 今天天气很好"
    for name in ("with_pieces", "return_token_strs"):
        answer = (await http.post("/tokenize", json={"content": text, name: True})).json()
        assert len(answer["token_strs"]) == answer["count"]
        assert answer["token_strs"][0] == "The"
    answer = await http.post("/detokenize", json={"tokens": answer["tokens"]})
    assert answer.json() == {"prompt": text, "content": text}


async def test_a_conversation_has_the_tokens_that_are_computed(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    asked = question(model="org/fake-model")
    answer = (await http.post("/tokenize", json=asked)).json()
    usage = (await http.post(CHAT, json=asked)).json()["usage"]
    assert tuple(answer["tokens"]) == coordinator.order.prompt
    assert answer["count"] == usage["prompt_tokens"]


REFUSED: list[tuple[str, Any, int, str | None]] = [
    ("/tokenize", b"", 400, None),
    ("/tokenize", b"[]", 400, None),
    ("/tokenize", b" " * ((1 << 20) + 1), 413, None),
    ("/tokenize", {}, 400, "content"),
    ("/tokenize", {"content": 7}, 400, "content"),
    ("/tokenize", {"content": "\ud83d"}, 400, "content"),
    ("/tokenize", {"content": "a", "prompt": "a"}, 400, "content"),
    ("/tokenize", {"content": "a", "messages": []}, 400, "content"),
    ("/tokenize", {"content": "a", "add_special": True}, 400, "add_special"),
    ("/tokenize", {"content": "a", "add_special_tokens": True}, 400, "add_special_tokens"),
    ("/tokenize", {"content": "a", "with_pieces": "yes"}, 400, "with_pieces"),
    ("/tokenize", {"content": "a", "model": "gpt-4"}, 404, "model"),
    ("/tokenize", {"messages": []}, 400, "messages"),
    ("/tokenize", {"messages": [{"role": "robot"}]}, 400, "messages[0].role"),
    ("/tokenize", question(tools="f"), 400, "tools"),
    ("/detokenize", b"{", 400, None),
    ("/detokenize", {}, 400, "tokens"),
    ("/detokenize", {"tokens": "a"}, 400, "tokens"),
    ("/detokenize", {"tokens": [1, "a"]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [1, -1]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [1, True]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [1, 10**30]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [1, 400]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [], "model": "gpt-4"}, 404, "model"),
    ("/v1/cancel/chatcmpl-00", {}, 404, "id"),
    ("/cancel/%00", {}, 404, "id"),
]


async def test_refused(http: httpx.AsyncClient) -> None:
    for path, body, status, param in REFUSED:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await http.post(path, content=content)
        error = answer.json()["error"]
        got = (answer.status_code, error["param"])
        assert got == (status, param), f"{path} {content[:100]!r}: {answer.text[:300]}"
        assert set(error) == {"message", "type", "param", "code"}
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_cancel_a_stream(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, prefix: str
) -> None:
    coordinator.script = ["Hel", Gate(), "lo"]
    async with http.stream("POST", CHAT, json=question(stream=True)) as answer:
        lines = answer.aiter_lines()
        first = json.loads((await anext(lines)).removeprefix("data: "))
        await wait_for(lambda: coordinator.generations[0].at)
        path = f"{prefix}/cancel/{first['id']}"
        cancelled = await http.post(path)
        assert (cancelled.status_code, cancelled.json()) == (
            200,
            {"id": first["id"], "cancelled": True},
        )
        rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
    assert "cancelled" in rest[-1]["error"]["message"]
    assert not any(choice["finish_reason"] for each in rest[:-1] for choice in each["choices"])
    assert coordinator.generations[0].finish is Finish.CANCELLED
    assert (await http.post(path)).status_code == 404


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/messages"])
async def test_cancel_what_is_answered_at_once(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, path: str
) -> None:
    coordinator.script = [Gate(), "Hello"]
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await http.post(path, json=question(stream=False, max_tokens=9)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await wait_for(lambda: coordinator.generations and coordinator.generations[0].at)
        shown = coordinator.generations[0].id
        assert (await http.post(f"/v1/cancel/{shown}")).json() == {"id": shown, "cancelled": True}
    assert answers[0].status_code == 503
    assert "cancelled" in answers[0].text


async def test_a_benchmark(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    asked = question(use_prefix_cache=False, ignore_eos=True, max_tokens=3)
    answer = (await http.post("/bench/chat/completions", json=asked)).json()
    assert answer["choices"][0]["message"]["content"] == "Hello, world"
    assert answer["bench"]["completion_tokens"] == 3
    order = coordinator.order
    assert (order.cache, order.record_steps, order.ignore_eos) == (False, True, True)
    streamed = await http.post("/bench/chat/completions", json={**asked, "stream": True})
    *_, last, done, _ = streamed.text.split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(last.removeprefix("data: "))["bench"] == answer["bench"]


async def test_the_document_and_its_page(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    answer = await http.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert all(path in answer.text for path in document["paths"])
