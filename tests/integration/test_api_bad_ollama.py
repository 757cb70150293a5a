"""What Ollama's dialect refuses and how; the server is as healthy after each as before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cluster.core.config import Limits
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import FakeCoordinator, serving

LIMIT = 200_000
DEEP = b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CIRCLE = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}

Row = tuple[Any, int, str]
"""Body, status, and what the message names."""

NO_OBJECT: list[Row] = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"null", 400, "object"),
    (b"[]", 400, "object"),
    (b'"text"', 400, "object"),
    (b"\xff\xfe{}", 400, "UTF-8"),
    (b'{"options": {"temperature": NaN}}', 400, "NaN"),
    (b'{"options": {"seed": ' + b"9" * 5000 + b"}}", 400, "number"),
    (DEEP, 400, "deep"),
    (b" " * (LIMIT + 1), 413, "bytes"),
]

FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "llama3"}, 404, "llama3"),
    ({"model": "llama3:latest"}, 404, "llama3"),
    ({"model": "org/fake-model:7b"}, 404, "org/fake-model:7b"),
    ({"model": 3}, 400, "model"),
    ({"stream": "no"}, 400, "stream"),
    ({"stream": 0}, 400, "stream"),
    ({"format": "xml"}, 400, "format"),
    ({"format": True}, 400, "format"),
    ({"format": ["json"]}, 400, "format"),
    ({"think": "hard"}, 400, "think"),
    ({"think": 1}, 400, "think"),
    ({"keep_alive": "soon"}, 400, "keep_alive"),
    ({"keep_alive": {}}, 400, "keep_alive"),
    ({"keep_alive": "5 m"}, 400, "keep_alive"),
    ({"logprobs": 1}, 400, "logprobs"),
    ({"top_logprobs": 3}, 400, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    ({"options": []}, 400, "options"),
    ({"options": "fast"}, 400, "options"),
    ({"options": {"temperature": -0.1}}, 400, "options.temperature"),
    ({"options": {"temperature": 2.1}}, 400, "options.temperature"),
    ({"options": {"temperature": "hot"}}, 400, "options.temperature"),
    ({"options": {"top_k": 1.5}}, 400, "options.top_k"),
    ({"options": {"top_k": -2}}, 400, "options.top_k"),
    ({"options": {"top_p": 1.1}}, 400, "options.top_p"),
    ({"options": {"min_p": -1}}, 400, "options.min_p"),
    ({"options": {"seed": "lucky"}}, 400, "options.seed"),
    ({"options": {"seed": True}}, 400, "options.seed"),
    ({"options": {"num_predict": "ten"}}, 400, "options.num_predict"),
    ({"options": {"num_predict": -3}}, 400, "options.num_predict"),
    ({"options": {"stop": ["a"] * 17}}, 400, "options.stop"),
    ({"options": {"stop": [""]}}, 400, "options.stop[0]"),
    ({"options": {"stop": [1]}}, 400, "options.stop[0]"),
    ({"options": {"stop": ["x" * 1001]}}, 400, "options.stop[0]"),
    ({"options": {"repeat_penalty": 0}}, 400, "options.repeat_penalty"),
    ({"options": {"presence_penalty": 3}}, 400, "options.presence_penalty"),
    ({"options": {"frequency_penalty": -3}}, 400, "options.frequency_penalty"),
]

USER = {"role": "user", "content": "Say hello"}
CHAT: list[tuple[dict[str, Any], int, str]] = [
    ({"messages": "hello"}, 400, "messages"),
    ({"messages": USER}, 400, "messages"),
    ({"messages": ["hello"]}, 400, "messages[0]"),
    ({"messages": [{"content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, 400, "messages[0].content"),
    ({"messages": [{**USER, "content": "\ud83d"}]}, 400, "messages[0].content"),
    ({"messages": [USER, {**USER, "images": ["AA=="]}]}, 400, "messages[1].images"),
    ({"messages": [{**USER, "content": "fox " * 2000}]}, 400, "512"),
    ({"messages": [{**USER, "tool_calls": [{}]}]}, 400, "tool_calls[0].function"),
    ({"messages": [{**USER, "tool_calls": [{"function": {}}]}]}, 400, "function.name"),
    ({"tools": "f"}, 400, "tools"),
    ({"tools": [{}]}, 400, "tools[0]"),
    ({"tools": [{**TOOL, "type": "web"}]}, 400, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "name"),
    ({"tools": [TOOL] * 129}, 400, "tools"),
]

GENERATE: list[tuple[dict[str, Any], int, str]] = [
    ({"prompt": 7}, 400, "prompt"),
    ({"prompt": ["a"]}, 400, "prompt"),
    ({"prompt": "\ud83d"}, 400, "prompt"),
    ({"prompt": "fox " * 2000}, 400, "512"),
    ({"prompt": "fox " * 2000, "raw": True}, 400, "512"),
    ({"system": 7}, 400, "system"),
    ({"system": "Be brief", "raw": True}, 400, "system"),
    ({"raw": "yes"}, 400, "raw"),
    ({"suffix": "end"}, 400, "suffix"),
    ({"template": "{{ .Prompt }}"}, 400, "template"),
    ({"images": ["AA=="]}, 400, "images"),
    ({"prompt": "", "images": ["AA=="]}, 400, "images"),
]

TABLES: dict[str, list[Row]] = {
    "/api/chat": NO_OBJECT
    + [({"messages": [USER], **fields}, *rest) for fields, *rest in FIELDS + CHAT],
    "/api/generate": NO_OBJECT
    + [({"prompt": "Say", **fields}, *rest) for fields, *rest in FIELDS + GENERATE],
    "/api/show": [
        *NO_OBJECT,
        ({}, 400, "model"),
        ({"model": ""}, 400, "model"),
        ({"model": 7}, 400, "model"),
        ({"name": "llama3"}, 404, "llama3"),
    ],
}

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"model": "org/fake-model"},
    {"unknown": {"anything": [1]}, "context": [1, 2, 3]},
    {"format": ""},
    {"format": None, "think": None, "options": None, "keep_alive": None, "stream": None},
    {"format": CIRCLE},
    {"keep_alive": -1},
    {"keep_alive": 0},
    {"keep_alive": "1h30m"},
    {"options": {}},
    {"options": {"num_ctx": 8192, "mirostat": 1, "typical_p": 0.5, "numa": False}},
    {"options": {"num_predict": -1}},
    {"options": {"num_predict": -2}},
    {"options": {"num_predict": 5.0, "top_k": 40.0, "temperature": 1}},
    {"options": {"top_p": 0, "top_k": 0, "seed": -1}},
    {"options": {"stop": "END"}},
    {"options": {"stop": []}},
]


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    return FakeCoordinator(tokenizer, Limits(body_bytes=LIMIT))


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(coordinator) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def test_the_tables_are_long_enough() -> None:
    assert min(len(TABLES["/api/chat"]), len(TABLES["/api/generate"])) >= 40


@pytest.mark.parametrize("path", TABLES)
async def test_refused(http: httpx.AsyncClient, coordinator: FakeCoordinator, path: str) -> None:
    for body, status, named in TABLES[path]:
        answer = await http.post(path, content=encoded(body))
        assert answer.status_code == status, f"{encoded(body)[:200]!r}: {answer.text[:300]}"
        assert list(answer.json()) == ["error"]
        assert named in answer.json()["error"], f"{encoded(body)[:200]!r}: {answer.text[:300]}"
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        assert (await http.get("/health")).status_code == 200
    assert coordinator.generations == []


@pytest.mark.parametrize(
    ("path", "least"), [("/api/chat", {"messages": [USER]}), ("/api/generate", {"prompt": "Say"})]
)
async def test_accepted(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, path: str, least: dict[str, Any]
) -> None:
    for count, fields in enumerate(ACCEPTED, start=1):
        answer = await http.post(path, json={**least, **fields})
        assert answer.status_code == 200, f"{fields}: {answer.text}"
        assert len(coordinator.generations) == count


async def test_a_request_without_text_that_is_large_is_no_load(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/chat", json={"messages": [], "padding": "x" * 70_000})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "messages: there is nothing to answer"},
    )
