"""What /v1/completions and /v1/responses refuse, how, and by what name; the server is as healthy
after each as before."""

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
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
UNSUPPORTED = "unsupported_parameter"
TOO_LONG = "context_length_exceeded"
GRAMMAR = "invalid_grammar"
NO_MODEL = "model_not_found"
DEEP = b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"

Row = tuple[Any, int, str | None, str | None]
"""Body, status, code, param."""


def invalid(body: Any, param: str | None) -> Row:
    return body, 400, None, param


def refused(body: Any, param: str) -> Row:
    return body, 400, UNSUPPORTED, param


def common(valid: dict[str, Any], length: str) -> list[Row]:
    """What both refuse; `length` is the field that bounds an answer."""

    def but(**fields: Any) -> dict[str, Any]:
        return {**valid, **fields}

    def raw(field: str) -> bytes:
        return json.dumps(valid).encode()[:-1] + b", " + field.encode() + b"}"

    return [
        invalid(b"", None),
        invalid(b"{", None),
        invalid(b"null", None),
        invalid(b"[]", None),
        invalid(b"\xff\xfe{}", None),
        invalid(DEEP, None),
        invalid(raw('"temperature": NaN'), None),
        invalid(raw('"seed": ' + "9" * 5000), None),
        invalid(raw('"temperature": 1e999'), "temperature"),
        (but(model="gpt-4"), 404, NO_MODEL, "model"),
        invalid(but(model=4), "model"),
        invalid(but(stream="yes"), "stream"),
        invalid(but(stream_options="all"), "stream_options"),
        invalid(but(**{length: 0}), length),
        invalid(but(**{length: "ten"}), length),
        invalid(but(**{length: 1.5}), length),
        invalid(but(**{length: True}), length),
        invalid(but(min_tokens=-1), "min_tokens"),
        invalid(but(min_tokens=9, **{length: 8}), "min_tokens"),
        invalid(but(temperature=2.1), "temperature"),
        invalid(but(temperature="hot"), "temperature"),
        invalid(but(top_p=1.1), "top_p"),
        invalid(but(top_k=-2), "top_k"),
        invalid(but(min_p=2), "min_p"),
        invalid(but(repetition_penalty=0), "repetition_penalty"),
        invalid(but(presence_penalty=2.5), "presence_penalty"),
        invalid(but(frequency_penalty=-3), "frequency_penalty"),
        invalid(but(seed=1.5), "seed"),
        invalid(but(stop=["a"] * 5), "stop"),
        invalid(but(stop=""), "stop[0]"),
        invalid(but(stop=[1]), "stop[0]"),
        invalid(but(logit_bias={"1": 101}), "logit_bias.1"),
        invalid(but(logit_bias={"one": 1}), "logit_bias"),
        invalid(but(logit_bias={"99999999": 1}), "logit_bias"),
        refused(but(stop_token_ids=[1]), "stop_token_ids"),
    ]


def prompt(value: Any, **fields: Any) -> dict[str, Any]:
    return {"prompt": value, **fields}


COMPLETION_ROWS: list[Row] = [
    *common({"prompt": "Hello"}, "max_tokens"),
    invalid({}, "prompt"),
    invalid(prompt(None), "prompt"),
    invalid(prompt(""), "prompt"),
    invalid(prompt([]), "prompt"),
    invalid(prompt([""]), "prompt"),
    invalid(prompt([[]]), "prompt"),
    invalid(prompt([True]), "prompt"),
    invalid(prompt([1.5]), "prompt"),
    invalid(prompt([1, "a"]), "prompt"),
    invalid(prompt([-1]), "prompt"),
    invalid(prompt([99_999_999]), "prompt"),
    invalid(prompt({"text": "a"}), "prompt"),
    refused(prompt(["a", "b"]), "prompt"),
    refused(prompt([[1], [2]]), "prompt"),
    (prompt("fox " * 2000), 400, TOO_LONG, "prompt"),
    refused(prompt("a", echo=True), "echo"),
    refused(prompt("a", suffix="."), "suffix"),
    refused(prompt("a", best_of=3), "best_of"),
    invalid(prompt("a", best_of=0), "best_of"),
    invalid(prompt("a", n=0), "n"),
    invalid(prompt("a", n=9), "n"),
    invalid(prompt("a", logprobs=6), "logprobs"),
    invalid(prompt("a", logprobs=True), "logprobs"),
    invalid(prompt("a", response_format={"type": "xml"}), "response_format.type"),
    invalid(prompt("a", guided_choice=[]), "guided_choice"),
    (prompt("a", guided_regex="("), 400, GRAMMAR, "guided_regex"),
    invalid(prompt("a", guided_regex="a", guided_choice=["a"]), "guided_choice"),
]


def asked(value: Any, **fields: Any) -> dict[str, Any]:
    return {"input": value, **fields}


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


TOOL = {"type": "function", "name": "f", "parameters": {}}
PART = "input[0].content[0]"
RESPONSE_ROWS: list[Row] = [
    *common({"input": "Hello"}, "max_output_tokens"),
    invalid({}, "input"),
    invalid(asked(None), "input"),
    invalid(asked([]), "input"),
    invalid(asked(7), "input"),
    invalid(asked({"role": "user"}), "input"),
    invalid(asked(["a"]), "input[0]"),
    invalid(item(), "input[0].role"),
    invalid(item(role="robot", content="a"), "input[0].role"),
    invalid(item(role="user"), "input[0].content"),
    invalid(item(role="user", content=7), "input[0].content"),
    invalid(item(role="user", content=[{"text": "a"}]), f"{PART}.type"),
    invalid(item(role="user", content=[{"type": "input_text"}]), f"{PART}.text"),
    refused(item(role="user", content=[{"type": "input_image", "image_url": "x"}]), PART),
    refused(item(type="computer_call", id="1"), "input[0].type"),
    invalid(item(type="function_call", name="f", arguments="{}"), "input[0].call_id"),
    invalid(item(type="function_call", call_id="1", arguments="{}"), "input[0].name"),
    invalid(item(type="function_call", call_id="1", name="f"), "input[0].arguments"),
    invalid(item(type="function_call_output", output="a"), "input[0].call_id"),
    invalid(item(type="function_call_output", call_id="1"), "input[0].output"),
    invalid(item(type="item_reference"), "input[0].id"),
    (item(type="item_reference", id="msg_0"), 404, "not_found", "input"),
    (asked("fox " * 2000), 400, TOO_LONG, "input"),
    (asked("a", previous_response_id="resp_0"), 404, "not_found", "previous_response_id"),
    invalid(asked("a", previous_response_id=7), "previous_response_id"),
    invalid(asked("a", instructions=["a"]), "instructions"),
    invalid(asked("a", background=True, store=False), "background"),
    invalid(asked("a", store="yes"), "store"),
    invalid(asked("a", metadata={"a": 1}), "metadata.a"),
    invalid(asked("a", metadata={"a": "b" * 513}), "metadata.a"),
    invalid(asked("a", metadata=dict.fromkeys(map(str, range(17)), "")), "metadata"),
    invalid(asked("a", truncation="some"), "truncation"),
    invalid(asked("a", top_logprobs=21), "top_logprobs"),
    invalid(asked("a", include="all"), "include"),
    invalid(asked("a", reasoning={"effort": 3}), "reasoning.effort"),
    invalid(asked("a", text={"format": "json"}), "text.format"),
    invalid(asked("a", text={"format": {"type": "xml"}}), "text.format.type"),
    invalid(asked("a", text={"format": {"type": "json_schema"}}), "text.format.schema"),
    invalid(asked("a", tools="f"), "tools"),
    invalid(asked("a", tools=[{"name": "f"}]), "tools[0].type"),
    invalid(asked("a", tools=[{"type": "function"}]), "tools[0].name"),
    invalid(asked("a", tools=[TOOL] * 129), "tools"),
    invalid(asked("a", tools=[{**TOOL, "parameters": []}]), "tools[0].parameters"),
    invalid(asked("a", tool_choice="required"), "tool_choice"),
    invalid(asked("a", tools=[TOOL], tool_choice="some"), "tool_choice"),
    invalid(
        asked("a", tools=[TOOL], tool_choice={"type": "function", "name": "g"}), "tool_choice.name"
    ),
    refused(asked("a", tools=[TOOL], tool_choice={"type": "web_search"}), "tool_choice.type"),
    refused(asked("a", conversation="conv_1"), "conversation"),
    refused(asked("a", prompt={"id": "pmpt_1"}), "prompt"),
]

# Path and query, status, param.
STORED_ROWS: list[tuple[str, str, int, str | None]] = [
    ("GET", "/none", 404, None),
    ("DELETE", "/none", 404, None),
    ("POST", "/none/cancel", 404, None),
    ("GET", "/none/input_items", 404, None),
    ("GET", "/%00%ff", 404, None),
    ("GET", "/{id}?stream=maybe", 400, "stream"),
    ("GET", "/{id}?stream=true&starting_after=x", 400, "starting_after"),
    ("GET", "/{id}?stream=true&starting_after=-2", 400, "starting_after"),
    ("GET", "/{id}?stream=true&starting_after=99", 400, "starting_after"),
    ("GET", "/{id}?stream=true&starting_after=" + "9" * 5000, 400, "starting_after"),
    ("GET", "/{id}/input_items?limit=0", 400, "limit"),
    ("GET", "/{id}/input_items?limit=101", 400, "limit"),
    ("GET", "/{id}/input_items?order=up", 400, "order"),
    ("GET", "/{id}/input_items?after=none", 400, "after"),
    ("POST", "/{id}/cancel", 400, None),
    ("PUT", "/{id}", 405, None),
]


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    return FakeCoordinator(tokenizer, Limits(body_bytes=LIMIT))


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(coordinator) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
    ):
        yield http


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def check_shape(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "rows"), [(COMPLETIONS, COMPLETION_ROWS), (RESPONSES, RESPONSE_ROWS)]
)
async def test_refused(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, path: str, rows: list[Row]
) -> None:
    for body, status, code, param in rows:
        bodies = [body]
        if isinstance(body, dict) and "stream" not in body:
            bodies.append({**body, "stream": True})  # a refused stream is no stream
        for each in bodies:
            answer = await http.post(path, content=encoded(each))
            error = answer.json().get("error", {})
            got = (answer.status_code, error.get("code"), error.get("param"))
            assert got == (status, code, param), f"{encoded(each)[:200]!r}: {answer.text[:300]}"
            check_shape(answer)
        assert (await http.get("/health")).status_code == 200
    assert coordinator.generations == []
    valid = prompt("a") if path == COMPLETIONS else asked("a")
    assert (await http.post(path, json=valid)).status_code == 200


async def test_refused_of_what_is_stored(http: httpx.AsyncClient) -> None:
    made = (await http.post(RESPONSES, json={"input": "a"})).json()
    for method, rest, status, param in STORED_ROWS:
        answer = await http.request(method, RESPONSES + rest.replace("{id}", made["id"]))
        got = (answer.status_code, answer.json()["error"]["param"])
        assert got == (status, param), f"{method} {rest}: {answer.text[:300]}"
        check_shape(answer)
    assert (await http.get(f"{RESPONSES}/{made['id']}")).json() == made
    assert (await http.get(f"/responses/{made['id']}")).json() == made


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, prompt("a", model=None, stream=None, n=None, echo=False, suffix=None)),
    (COMPLETIONS, prompt("a", user="me", best_of=1, unknown={"x": 1})),
    (COMPLETIONS, prompt([[1]], logprobs=5, max_tokens=10**9)),
    (RESPONSES, asked("a", include=["reasoning.encrypted_content"], service_tier="auto")),
    (RESPONSES, asked("a", truncation="auto", parallel_tool_calls=False, prompt_cache_key="k")),
    (RESPONSES, asked("a", tools=[], tool_choice="auto", reasoning=None, text=None)),
    (RESPONSES, asked("a", instructions=None, metadata=None, previous_response_id=None)),
    (RESPONSES, asked([{"role": "user", "content": []}], conversation=None, unknown=[1])),
]


async def test_accepted(http: httpx.AsyncClient) -> None:
    for path, body in ACCEPTED:
        answer = await http.post(path, json=body)
        assert answer.status_code == 200, f"{body}: {answer.text}"


async def test_tools_that_are_left_out_are_told(http: httpx.AsyncClient) -> None:
    """As Codex sends them."""
    tools = [{"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}]
    body = asked("a", tools=[*tools, {"type": "web_search"}, {"type": "local_shell"}])
    for stream in (False, True):
        answer = await http.post(RESPONSES, json={**body, "stream": stream})
        assert answer.status_code == 200
        assert answer.headers["x-tandem-warning"].startswith("tools of the types custom, local")
