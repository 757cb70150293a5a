"""What is refused, how, and by what name; the server is as healthy after each as before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from cluster.core.config import Limits
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import CHAT, FakeCoordinator, question, serving

LIMIT = 200_000
UNSUPPORTED = "unsupported_parameter"
TOO_LONG = "context_length_exceeded"
DEEP = b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **fields}]}


def raw(field: str) -> bytes:
    """A valid request with one more field, as text."""
    return json.dumps(question()).encode()[:-1] + b", " + field.encode() + b"}"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

# body, status, code, param
TABLE: list[tuple[Any, int, str | None, str | None]] = [
    # No JSON object
    (b"", 400, None, None),
    (b"{", 400, None, None),
    (b'{"messages": [}', 400, None, None),
    (b"null", 400, None, None),
    (b"[]", 400, None, None),
    (b'"text"', 400, None, None),
    (b"\xff\xfe{}", 400, None, None),
    (json.dumps(question()).encode("utf-16"), 400, None, None),
    (raw('"temperature": NaN'), 400, None, None),
    (raw('"temperature": Infinity'), 400, None, None),
    (raw('"metadata": {"x": -Infinity}'), 400, None, None),
    (raw('"temperature": 1e999'), 400, None, "temperature"),
    (raw('"seed": ' + "9" * 5000), 400, None, None),
    (DEEP, 400, None, None),
    # messages
    ({}, 400, None, "messages"),
    ({"messages": None}, 400, None, "messages"),
    ({"messages": []}, 400, None, "messages"),
    ({"messages": "hello"}, 400, None, "messages"),
    ({"messages": {"role": "user"}}, 400, None, "messages"),
    ({"messages": ["hello"]}, 400, None, "messages[0]"),
    ({"messages": [{"content": "a"}]}, 400, None, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "a"}]}, 400, None, "messages[0].role"),
    ({"messages": [{"role": 7, "content": "a"}]}, 400, None, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, None, "messages[0].content"),
    (user(None), 400, None, "messages[0].content"),
    (user(7), 400, None, "messages[0].content"),
    (user({"type": "text"}), 400, None, "messages[0].content"),
    (user([7]), 400, None, "messages[0].content[0]"),
    (user([{"text": "a"}]), 400, None, "messages[0].content[0].type"),
    (user([{"type": "text"}]), 400, None, "messages[0].content[0].text"),
    (user([{"type": "text", "text": 1}]), 400, None, "messages[0].content[0].text"),
    (user("\ud83d"), 400, None, "messages[0].content"),
    (question(logit_bias={"\ud83d": 1000}), 400, None, "logit_bias"),
    (question(unknown="\udc00"), 400, None, "unknown"),
    (user("fox " * 2000), 400, TOO_LONG, "messages"),
    (user([IMAGE]), 400, UNSUPPORTED, "messages[0].content[0]"),
    (
        user([{"type": "text", "text": "a"}, {"type": "input_audio"}]),
        400,
        UNSUPPORTED,
        "messages[0].content[1]",
    ),
    (
        # The template of this model knows no such role.
        {"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]},
        400,
        None,
        "messages",
    ),
    (
        {"messages": [{"role": "function", "name": "f", "content": "a"}]},
        400,
        UNSUPPORTED,
        "messages[0].role",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {}}]}]},
        400,
        None,
        "messages[0].tool_calls[0].function.name",
    ),
    # model
    (question(model="gpt-4"), 404, "model_not_found", "model"),
    (question(model=""), 404, "model_not_found", "model"),
    (question(model=4), 400, None, "model"),
    # limits and numbers
    (question(max_tokens=0), 400, None, "max_tokens"),
    (question(max_tokens=-1), 400, None, "max_tokens"),
    (question(max_tokens="ten"), 400, None, "max_tokens"),
    (question(max_tokens=1.5), 400, None, "max_tokens"),
    (question(max_tokens=True), 400, None, "max_tokens"),
    (question(max_completion_tokens=0), 400, None, "max_completion_tokens"),
    (question(temperature=-0.1), 400, None, "temperature"),
    (question(temperature=2.1), 400, None, "temperature"),
    (question(temperature="hot"), 400, None, "temperature"),
    (question(temperature=True), 400, None, "temperature"),
    (question(top_p=1.1), 400, None, "top_p"),
    (question(top_p=-1), 400, None, "top_p"),
    (question(top_k=-2), 400, None, "top_k"),
    (question(top_k=1.5), 400, None, "top_k"),
    (question(min_p=2), 400, None, "min_p"),
    (question(repetition_penalty=0), 400, None, "repetition_penalty"),
    (question(presence_penalty=2.5), 400, None, "presence_penalty"),
    (question(frequency_penalty=-2.5), 400, None, "frequency_penalty"),
    (question(seed="lucky"), 400, None, "seed"),
    (question(seed=1.5), 400, None, "seed"),
    (question(n=0), 400, None, "n"),
    (question(n=9), 400, None, "n"),
    (question(n=True), 400, None, "n"),
    (question(logprobs=1), 400, None, "logprobs"),
    (question(logprobs="yes"), 400, None, "logprobs"),
    (question(top_logprobs=3), 400, None, "top_logprobs"),
    (question(top_logprobs=3, logprobs=False), 400, None, "top_logprobs"),
    (question(top_logprobs=21, logprobs=True), 400, None, "top_logprobs"),
    (question(top_logprobs=-1, logprobs=True), 400, None, "top_logprobs"),
    (question(min_tokens=-1), 400, None, "min_tokens"),
    (question(min_tokens=1.0), 400, None, "min_tokens"),
    (question(min_tokens=6, max_tokens=5), 400, None, "min_tokens"),
    (question(min_tokens=6, max_tokens=9, max_completion_tokens=5), 400, None, "min_tokens"),
    (question(ignore_eos="no"), 400, None, "ignore_eos"),
    (question(logit_bias=[1]), 400, None, "logit_bias"),
    (question(logit_bias={"a": 1}), 400, None, "logit_bias"),
    (question(logit_bias={"-1": 1}), 400, None, "logit_bias"),
    (question(logit_bias={"99999": 1}), 400, None, "logit_bias"),
    (question(logit_bias={"٣": 1}), 400, None, "logit_bias"),
    (question(logit_bias={"9" * 5000: 1}), 400, None, "logit_bias"),
    (question(logit_bias={"5": 101}), 400, None, "logit_bias.5"),
    # stop and stream
    (question(stop=""), 400, None, "stop[0]"),
    (question(stop=["a", ""]), 400, None, "stop[1]"),
    (question(stop=["a", "b", "c", "d", "e"]), 400, None, "stop"),
    (question(stop=7), 400, None, "stop"),
    (question(stop=[7]), 400, None, "stop[0]"),
    (question(stop="x" * 1001), 400, None, "stop[0]"),
    (question(stream="yes"), 400, None, "stream"),
    (question(stream=1), 400, None, "stream"),
    (question(stream=True, stream_options=[]), 400, None, "stream_options"),
    (
        question(stream=True, stream_options={"include_usage": 1}),
        400,
        None,
        "stream_options.include_usage",
    ),
    # Understood, and not possible
    (question(tools=[{"type": "web_search"}]), 400, None, "tools[0].type"),
    (question(tools=[{**TOOL, "function": {"name": ""}}]), 400, None, "tools[0].function.name"),
    (question(functions=[{"name": "f"}]), 400, UNSUPPORTED, "functions"),
    (question(function_call={"name": "f"}), 400, UNSUPPORTED, "function_call"),
    (question(modalities=["text", "audio"]), 400, UNSUPPORTED, "modalities"),
    (question(audio={"voice": "alloy"}), 400, UNSUPPORTED, "audio"),
    (question(prediction={"type": "content"}), 400, UNSUPPORTED, "prediction"),
    (question(web_search_options={}), 400, UNSUPPORTED, "web_search_options"),
    (question(stop_token_ids=[5]), 400, UNSUPPORTED, "stop_token_ids"),
    # Size
    (b" " * (LIMIT + 1), 413, "request_too_large", None),
    (user("x" * LIMIT), 413, "request_too_large", None),
]

ACCEPTED: list[dict[str, Any]] = [
    question(model="org/fake-model"),
    question(model=None, stream=None, stop=None, seed=None, temperature=None, logit_bias=None),
    question(unknown={"a": [1, None]}, user="me", metadata={}, store=True, service_tier="auto"),
    question(parallel_tool_calls=False, reasoning_effort="low", verbosity="low"),
    question(tools=[], functions=[], tool_choice="auto", function_call="none", n=1),
    question(tools=[TOOL], tool_choice="none", structured_outputs={"regex": None}),
    question(response_format={"type": "text"}, modalities=["text"], logprobs=False),
    question(top_logprobs=0, min_tokens=None, ignore_eos=None, stop_token_ids=[]),
    question(n=8, logprobs=True, top_logprobs=20, min_tokens=5, max_tokens=5, ignore_eos=True),
    question(min_tokens=10**30),
    question(max_tokens=10**30, max_completion_tokens=10**40),
    question(temperature=2, top_p=0, top_k=-1, min_p=1, repetition_penalty=1.1),
    question(seed=-(10**30), logit_bias={"5": -100, "6": 1}),
    question(stop=["a", "b", "c", "d"], stream_options={"include_usage": True}),
    user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], name="me"),
    {"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": "\0"}]},
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
            {"role": "user", "content": ""},
        ]
    },
]


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    return FakeCoordinator(tokenizer, Limits(body_bytes=LIMIT))


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator) as port:
        yield port


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def check_shape(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


async def test_refused(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    for body, status, code, param in TABLE:
        answer = await http.post(CHAT, content=encoded(body))
        error = answer.json().get("error", {})
        got = (answer.status_code, error.get("code"), error.get("param"))
        assert got == (status, code, param), f"{encoded(body)[:200]!r}: {answer.text[:300]}"
        check_shape(answer)
        if param is not None:
            assert (
                param in error["message"]
                or code in (TOO_LONG, "model_not_found")
                or (param == "messages" and "template" in error["message"])
            )
        assert (await http.get("/health")).status_code == 200
    assert coordinator.generations == []
    assert (await http.post(CHAT, json=question())).status_code == 200


async def test_a_refused_stream_is_no_stream(http: httpx.AsyncClient) -> None:
    for body, status, code, param in TABLE:
        if isinstance(body, dict) and "stream" not in body:
            answer = await http.post(CHAT, content=encoded({**body, "stream": True}))
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


async def test_accepted(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    count = 0
    for body in ACCEPTED:
        answer = await http.post(CHAT, json=body)
        assert answer.status_code == 200, f"{body}: {answer.text}"
        count += body.get("n") or 1
        assert len(coordinator.generations) == count
    seeds = {generation.order.sampling.seed for generation in coordinator.generations}
    assert len(seeds) == count
    assert all(0 <= seed < 2**64 for seed in seeds)


async def test_a_prompt_that_is_too_long_says_both_numbers(http: httpx.AsyncClient) -> None:
    answer = await http.post(CHAT, json=user("fox " * 2000))
    message = answer.json()["error"]["message"]
    assert "512" in message
    assert any(2000 < int(word) < 9000 for word in message.split() if word.isdecimal())


async def test_an_endless_body_is_cut_off_at_the_limit(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 65536
            yield b" " * 65536
            await anyio.lowlevel.checkpoint()

    answer = await http.post(CHAT, content=endless())
    assert answer.status_code == 413
    check_shape(answer)
    assert (await http.get("/health")).status_code == 200


async def test_a_declared_size_is_refused_before_the_body_comes(port: int) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
        await stream.send(head.encode())
        with anyio.fail_after(5):
            assert (await stream.receive()).startswith(b"HTTP/1.1 413")


async def test_what_is_not_http_is_a_400_in_shape(port: int) -> None:
    for nonsense in (b"\x16\x03\x01\x00\xa5\x01\x00\x00", b"HELLO\r\n\r\n", b"x" * 70_000):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(nonsense)
            received = b""
            with anyio.fail_after(5):
                try:
                    while True:
                        received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    pass
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
