"""Answers whose form is asked for: formats, forced tool calls, and what can't be expressed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from cluster import demo
from cluster.core.request import Finish
from cluster.text import grammar
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import CHAT, FakeCoordinator, question, serving

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]
MODEL = "org/fake-model"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
INEXPRESSIBLE: dict[str, Any] = {"type": "object", "not": {"required": ["日"]}}
PARAMETERS = {**SCHEMA, "required": ["a"]}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "stop", "description": "Stop it."}},
]
WARNING = "X-Tandem-Warning"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(demo.folder())


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


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ""),
        ({"response_format": {"type": "text"}}, ""),
        ({"structured_outputs": {}}, ""),
        ({"structured_outputs": {"json": None, "json_object": False}}, ""),
        ({"response_format": {"type": "json_object"}}, grammar.json_object()),
        ({"structured_outputs": {"json_object": True}}, grammar.json_object()),
        ({"response_format": schema_format(SCHEMA)}, grammar.json_schema(SCHEMA)),
        ({"response_format": schema_format(SCHEMA, strict=True)}, grammar.json_schema(SCHEMA)),
        ({"structured_outputs": {"json": SCHEMA}}, grammar.json_schema(SCHEMA)),
        ({"guided_json": SCHEMA}, grammar.json_schema(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, grammar.json_schema(SCHEMA)),
        ({"structured_outputs": {"regex": "a+"}}, grammar.regex("a+")),
        ({"guided_regex": "a+"}, grammar.regex("a+")),
        ({"guided_choice": ["yes", "no"]}, grammar.choice(["yes", "no"])),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, grammar.choice(["yes", "no"])),
        ({"guided_grammar": 'start: "a"'}, 'start: "a"'),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, grammar.lark('root ::= "a"')),
    ],
)
async def test_every_format_reaches_the_order(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, fields: dict[str, Any], wanted: str
) -> None:
    coordinator.script = ["{}"]
    answer = await http.post(CHAT, json=question(**fields))
    assert answer.status_code == 200, answer.text
    assert coordinator.order.grammar == wanted
    assert WARNING not in answer.headers


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": "json"}, "response_format", None),
        ({"response_format": {}}, "response_format.type", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", None),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
        ({"response_format": schema_format(None)}, "response_format.json_schema.schema", None),
        ({"guided_json": "{"}, "guided_json", None),
        ({"guided_json": [1]}, "guided_json", None),
        ({"guided_regex": 5}, "guided_regex", None),
        ({"guided_regex": ""}, "guided_regex", None),
        ({"guided_regex": "["}, "guided_regex", "invalid_grammar"),
        ({"guided_regex": "\ud800"}, "guided_regex", None),
        ({"guided_choice": []}, "guided_choice", None),
        ({"guided_choice": ["a", 5]}, "guided_choice", None),
        ({"guided_grammar": "start: missing"}, "guided_grammar", "invalid_grammar"),
        ({"structured_outputs": []}, "structured_outputs", None),
        ({"structured_outputs": {"regex": "["}}, "structured_outputs.regex", "invalid_grammar"),
        ({"structured_outputs": {"xml": 1}}, "structured_outputs.xml", None),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs.choice",
            None,
        ),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": {"type": "function"}}, "tool_choice", None),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", None),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function", None),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice.function.name",
            None,
        ),
        ({"tools": "add", "tool_choice": "required"}, "tools", None),
        ({"tools": [{"type": "web"}], "tool_choice": "required"}, "tools[0].type", None),
        ({"tools": [{"type": "web"}]}, "tools[0].type", None),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    http: httpx.AsyncClient,
    coordinator: FakeCoordinator,
    fields: dict[str, Any],
    param: str,
    code: str | None,
) -> None:
    answer = await http.post(CHAT, content=json.dumps(question(**fields)))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"].startswith(param.split("[")[0].split(".")[0])
    assert not coordinator.generations


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_cannot_be_expressed_degrades_with_a_warning(
    http: httpx.AsyncClient, coordinator: FakeCoordinator, stream: bool
) -> None:
    fields = {"response_format": schema_format(INEXPRESSIBLE), "stream": stream}
    answer = await http.post(CHAT, json=question(**fields))
    assert answer.status_code == 200
    assert "Hello" in answer.text
    assert coordinator.order.grammar == ""
    told = answer.headers[WARNING]
    assert told.startswith("response_format.json_schema.schema is not enforced: ")
    assert "not" in told and told.isascii() and told.isprintable()


async def test_a_json_answer_that_is_none_is_an_error(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    asked = question(response_format={"type": "json_object"})
    coordinator.script = ['{"a":']
    assert (await http.post(CHAT, json=asked)).status_code == 503
    streamed = await http.post(CHAT, json={**asked, "stream": True})
    assert '"error"' in streamed.text and "[DONE]" not in streamed.text
    assert (await http.post(CHAT, json={**asked, "stop": "x"})).status_code == 200
    coordinator.script = ['{"a":', Finish.LENGTH]
    answer = await http.post(CHAT, json=asked)
    assert answer.json()["choices"][0]["finish_reason"] == "length"


CALL = ["\n", '{"name": "add", "arg', 'uments": {"a":', " 1}", "}\n"]


async def test_a_required_call(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = list(CALL)
    answer = await client.chat.completions.create(
        model=MODEL, messages=USER, tools=TOOLS, tool_choice="required", stop="1"
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id.startswith("call_")
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')
    order = coordinator.order
    assert order.stop == ()
    assert '\\"add\\"' in order.grammar and '\\"stop\\"' in order.grammar
    assert "# Tools" in coordinator.tokenizer.decode(order.prompt)


async def test_a_call_of_one_function(
    client: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.script = list(CALL)
    await client.chat.completions.create(
        model=MODEL,
        messages=USER,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "add"}},
        response_format={"type": "json_object"},
    )
    assert '\\"add\\"' in coordinator.order.grammar
    assert '\\"stop\\"' not in coordinator.order.grammar
    assert "stop" in coordinator.tokenizer.decode(coordinator.order.prompt)


async def test_a_streamed_call(client: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.script = list(CALL)
    name, arguments, finish, ids = "", "", None, set()
    stream = await client.chat.completions.create(
        model=MODEL, messages=USER, tools=TOOLS, tool_choice="required", stream=True
    )
    async for chunk in stream:
        (choice,) = chunk.choices
        assert not choice.delta.content
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            assert call.index == 0 and call.function is not None
            ids |= {call.id} - {None}
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments, finish, len(ids)) == ("add", '{"a": 1}', "tool_calls", 1)


@pytest.mark.parametrize(
    ("script", "name", "arguments"),
    [
        # A key is told with the beginning of its value.
        (['{"name": "add", "arguments": {"a": "b', Finish.LENGTH], "add", '{"a": "b'),
        (['{"name": "add", "arguments": {}', Finish.LENGTH], "add", "{}"),
        (['{"name": "a', Finish.LENGTH], None, None),
    ],
)
async def test_a_call_that_a_length_cut_off(
    client: openai.AsyncOpenAI,
    coordinator: FakeCoordinator,
    script: Any,
    name: str | None,
    arguments: str | None,
) -> None:
    coordinator.script = script
    answer = await client.chat.completions.create(
        model=MODEL, messages=USER, tools=TOOLS, tool_choice="required"
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    calls = choice.message.tool_calls or []
    told = [(c.function.name, c.function.arguments) for c in calls if c.type == "function"]
    assert told == ([(name, arguments)] if name else [])


async def test_a_call_that_is_none_is_an_error(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hello"]
    asked = question(tools=TOOLS, tool_choice="required")
    assert (await http.post(CHAT, json=asked)).status_code == 503


async def test_parameters_that_cannot_be_expressed_are_any_object(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = list(CALL)
    tools = [*TOOLS, {"type": "function", "function": {"name": "odd", "parameters": INEXPRESSIBLE}}]
    answer = await http.post(CHAT, json=question(tools=tools, tool_choice="required"))
    assert answer.status_code == 200
    assert answer.headers[WARNING] == "tools: the parameters of odd are not enforced"
    grammar_text = coordinator.order.grammar
    assert '"not"' not in grammar_text and '"integer"' in grammar_text


async def test_tools_that_are_not_to_be_called(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    answer = await http.post(CHAT, json=question(tools=TOOLS, tool_choice="none"))
    assert answer.status_code == 200
    assert coordinator.order.grammar == ""
    assert "# Tools" not in coordinator.tokenizer.decode(coordinator.order.prompt)
