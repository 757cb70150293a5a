"""The real anthropic client and httpx against /v1/messages on a real uvicorn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from pydantic import BaseModel

from cluster.coordinator.coordinator import Coordinator
from cluster.core.answer import CallArguments, CallBegun, Part, Text, Thought
from cluster.core.clock import SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import (
    DeadlinePassed,
    EpochEnded,
    NotReady,
    QueueFull,
    TandemError,
)
from cluster.core.request import Finish, Phase
from cluster.core.view import Health, ServedModel
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.unit.api.fake import FakeCoordinator, Gate, Now, serving
from tests.unit.text.bpe import TEMPLATE, make_folder

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
LIMIT = 200_000
BEAT = 0.05
"""Seconds between signs of life in these tests."""
MODEL = "org/fake-model"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Say hello"}],
}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
CALL_ID = "0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    template = TEMPLATE.replace("'assistant']", "'assistant', 'tool']")
    return Tokenizer.load(make_folder(tmp_path_factory.mktemp("bpe"), template=template))


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    return FakeCoordinator(tokenizer, Limits(body_bytes=LIMIT))


@pytest.fixture
async def port(coordinator: FakeCoordinator) -> AsyncIterator[int]:
    async with serving(coordinator, BEAT) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[anthropic.AsyncAnthropic]:
    url = f"http://127.0.0.1:{port}"
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="-", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client


class MarkedParser:
    """Stands for the model's own notation: "thought:", "call:" and "args:" begin such parts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._calls = 0

    def feed(self, text: str) -> list[Part]:
        kind, _, rest = text.partition(":")
        match kind:
            case "thought":
                return [Thought(rest)]
            case "call":
                self._calls += 1
                return [CallBegun(self._calls - 1, CALL_ID, rest)]
            case "args":
                return [CallArguments(self._calls - 1, rest)]
            case _:
                return [Text(text)]

    def finish(self, cut: bool = False) -> list[Part]:
        return []


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, coordinator: FakeCoordinator) -> None:
    monkeypatch.setattr("api.convert.orders.AnswerParser", MarkedParser)
    coordinator.script = ["thought:h", "thought:m", "I look", "call:f", 'args:{"a"', "args:: 1}"]


def check_answer(message: anthropic.types.Message) -> None:
    """What the marked script is, in Anthropic's words."""
    thinking, text, call = message.content
    assert thinking.type == "thinking" and thinking.thinking == "hm" and thinking.signature
    assert text.type == "text" and text.text == "I look"
    assert call.type == "tool_use" and (call.name, call.input) == ("f", {"a": 1})
    assert call.id == f"toolu_{CALL_ID}"
    assert message.stop_reason == "tool_use"


# The real client


async def test_create(client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator) -> None:
    coordinator.cached = 3
    message = await client.messages.create(
        **ASKED, system="Be kind", extra_body={"temperature": 0, "top_k": 5}
    )
    (block,) = message.content
    assert block.type == "text" and block.text == "Hello, world"
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.id == coordinator.generations[0].id
    assert message.id.startswith("msg_")
    assert message._request_id
    usage = message.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (3, 0)
    assert usage.input_tokens + 3 == len(coordinator.order.prompt)
    assert usage.output_tokens == 3
    assert coordinator.order.max_tokens == 64
    assert (coordinator.order.sampling.temperature, coordinator.order.sampling.top_k) == (0, 5)


async def test_how_an_answer_ends(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["a", Finish.LENGTH]
    assert (await client.messages.create(**ASKED)).stop_reason == "max_tokens"
    coordinator.script = [1]
    message = await client.messages.create(**ASKED)
    assert (message.content, message.stop_reason) == ([], "end_turn")


async def test_the_stop_sequence_is_told(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.api.fake.FakeGeneration.stop", "END")
    message = await client.messages.create(**ASKED, stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert coordinator.order.stop == ("END",)
    async with client.messages.stream(**ASKED, stop_sequences=["END"]) as stream:
        message = await stream.get_final_message()
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_a_raw_stream(client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator) -> None:
    coordinator.script = ["Hello", 2, ", world", Finish.LENGTH]
    stream = await client.messages.create(**ASKED, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, *_, delta, _ = events
    assert start.type == "message_start" and delta.type == "message_delta"
    assert start.message.usage.input_tokens == len(coordinator.order.prompt)
    assert start.message.id == coordinator.generations[0].id
    assert (delta.delta.stop_reason, delta.usage.output_tokens) == ("max_tokens", 4)


async def test_the_stream_helper(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    coordinator.cached = 2
    async with client.messages.stream(**ASKED) as stream:
        pieces = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert pieces == ["Hello", ", ", "world"]
    assert await stream.get_final_text() == "Hello, world"
    assert message.usage.output_tokens == 3
    assert message.usage.cache_read_input_tokens == 2
    assert message.usage.input_tokens + 2 == len(coordinator.order.prompt)


@pytest.mark.usefixtures("marked")
async def test_thinking_and_calls(client: anthropic.AsyncAnthropic) -> None:
    asked = {**ASKED, "max_tokens": 2000, "tools": [TOOL]}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    whole = await client.messages.create(**asked, thinking=thinking)
    check_answer(whole)
    async with client.messages.stream(**asked, thinking=thinking) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    check_answer(streamed)
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)
    drop = {"id", "parsed_output"}
    same = [
        [{k: v for k, v in block.to_dict().items() if k not in drop} for block in answer.content]
        for answer in (whole, streamed)
    ]
    assert same[0] == same[1]


@pytest.mark.usefixtures("marked")
async def test_a_call_cut_off_by_the_length(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["call:f", 'args:{"a": "b', Finish.LENGTH]
    message = await client.messages.create(**ASKED, tools=[TOOL])
    (call,) = message.content
    assert call.type == "tool_use" and call.input == {}
    assert message.stop_reason == "max_tokens"
    async with client.messages.stream(**ASKED, tools=[TOOL]) as stream:
        assert (await stream.get_final_message()).stop_reason == "max_tokens"


@pytest.mark.usefixtures("marked")
async def test_an_answer_is_sent_back_with_its_results(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    message = await client.messages.create(**ASKED, tools=[TOOL])
    call = message.content[2]
    assert call.type == "tool_use"
    turns: list[Any] = [
        *ASKED["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id}]},
    ]
    await client.messages.create(**{**ASKED, "messages": turns}, tools=[TOOL])
    prompt = coordinator.tokenizer.decode(coordinator.order.prompt)
    assert prompt.endswith("assistant\nI look\ntool\n\nassistant\n")


async def test_beta_and_raw_answers(client: anthropic.AsyncAnthropic) -> None:
    message = await client.beta.messages.create(**ASKED, betas=["context-management-2025-06-27"])
    assert message.stop_reason == "end_turn"
    async with client.beta.messages.stream(**ASKED) as stream:
        assert await stream.get_final_text() == "Hello, world"
    count = await client.beta.messages.count_tokens(model=MODEL, messages=ASKED["messages"])
    assert count.input_tokens == message.usage.input_tokens
    raw = await client.messages.with_raw_response.create(**ASKED)
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    async with client.messages.with_streaming_response.create(**ASKED, stream=True) as answer:
        lines = [line async for line in answer.iter_lines()]
    assert lines[0] == "event: message_start"


@pytest.mark.usefixtures("marked")
async def test_the_tool_runner_goes_round_once(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    @anthropic.beta_async_tool
    async def f(a: int) -> str:
        """Adds one."""
        return str(a + 1)

    # It first asks for a conversation held by the server, and is refused in a way that it knows.
    coordinator.scripts = [coordinator.script, ["It is two"]]
    runner = client.beta.messages.tool_runner(**ASKED, tools=[f])
    message = await runner.until_done()
    assert message.content[0].type == "text" and message.content[0].text == "It is two"
    prompt = coordinator.tokenizer.decode(coordinator.order.prompt)
    assert prompt.endswith("I look\ntool\n2\nassistant\n")


async def test_structured_output(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    class Answer(BaseModel):
        word: str

    coordinator.script = ['{"word"', ': "hi"}']
    message = await client.messages.parse(**ASKED, output_format=Answer)
    assert message.parsed_output == Answer(word="hi")
    assert coordinator.order.grammar


async def test_a_turn_is_continued(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    turns: list[Any] = [*ASKED["messages"], {"role": "assistant", "content": "Well,"}]
    await client.messages.create(**{**ASKED, "messages": turns})
    prompt = coordinator.tokenizer.decode(coordinator.order.prompt)
    assert prompt.endswith("Say hello\nassistant\nWell,")


async def test_count_tokens(client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "Say hello 今天"}]}]
    asked: dict[str, Any] = {"model": MODEL, "messages": turns, "system": [BILLING, KIND]}
    count = await client.messages.count_tokens(**asked, tools=[TOOL])
    assert coordinator.generations == []
    message = await client.messages.create(**asked, tools=[TOOL], max_tokens=9)
    assert count.input_tokens == message.usage.input_tokens
    assert count.input_tokens == len(coordinator.order.prompt)
    asked["messages"] = [{"role": "user", "content": "fox " * 2000}]
    assert (await client.messages.count_tokens(**asked)).input_tokens > 2000


BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=00000;"}
KIND = {"type": "text", "text": "Be kind", "cache_control": {"type": "ephemeral"}}


async def test_models(client: anthropic.AsyncAnthropic) -> None:
    found = [model async for model in client.models.list()]
    assert [model.id for model in found] == [MODEL]
    model = await client.models.retrieve(MODEL)
    assert (model.type, model.display_name, model.created_at.year) == ("model", MODEL, 2023)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.models.retrieve("other")
    assert caught.value.type == "not_found_error"


async def test_without_the_header_models_are_openais(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json()["object"] == "list"
    answer = await http.get("/v1/nothing", headers={"anthropic-version": "2023-06-01"})
    assert answer.json()["error"]["type"] == "not_found_error"


# Errors, time-outs, cancellation

UNAVAILABLE = anthropic.InternalServerError


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "raised", "kind", "retry"),
    [
        (QueueFull("full", retry_after=2.5), anthropic.RateLimitError, "rate_limit_error", "3"),
        (NotReady("loading", retry_after=1), UNAVAILABLE, "overloaded_error", "1"),
    ],
)
async def test_busy(
    client: anthropic.AsyncAnthropic,
    coordinator: FakeCoordinator,
    error: TandemError,
    raised: type[anthropic.APIStatusError],
    kind: str,
    retry: str,
    stream: bool,
) -> None:
    coordinator.refuse = error
    with pytest.raises(raised, match=str(error)) as caught:
        await client.messages.create(**ASKED, stream=stream)
    told, headers = caught.value, caught.value.response.headers
    assert (told.type, headers["retry-after"]) == (kind, retry)
    body: Any = told.body
    assert body["request_id"] == told.request_id == headers["x-request-id"]


async def test_errors_are_the_clients_exceptions(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="'other' is not served here"):
        await client.messages.create(**{**ASKED, "model": "other"})
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model="other", messages=ASKED["messages"])
    long: list[Any] = [{"role": "user", "content": "fox " * 2000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        await client.messages.create(**{**ASKED, "messages": long})
    coordinator.script = ["Hel", DeadlinePassed("7200 s in all")]
    with pytest.raises(anthropic.APIStatusError, match="7200 s in all") as caught:
        await client.messages.create(**ASKED)
    assert caught.value.status_code == 504
    assert coordinator.generations[-1].closed == 1


async def test_a_count_before_the_tokenizer_is_loaded() -> None:
    model = ServedModel("early", 64, 0, demo=False)
    early = Coordinator(model, limits=Limits(), pacing=Pacing(), clock=SystemClock())
    async with (
        serving(early) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        answer = await http.post(COUNT, json={**ASKED, "model": "early"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded_error")
    assert answer.headers["retry-after"]


async def test_an_error_in_a_stream(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hel", EpochEnded("rank 1 was lost")]
    with pytest.raises(anthropic.APIStatusError, match="rank 1 was lost") as caught:
        [event async for event in await client.messages.create(**ASKED, stream=True)]
    assert caught.value.type == "overloaded_error"
    pieces = []
    with pytest.raises(anthropic.APIStatusError, match="rank 1 was lost"):
        async with client.messages.stream(**ASKED) as stream:
            pieces = [text async for text in stream.text_stream]
    assert pieces == []


async def test_nothing_comes_after_an_error(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = [EpochEnded("rank 1 was lost")]
    answer = await http.post(MESSAGES, json={**ASKED, "stream": True})
    name, data = answer.text.strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "rank 1 was lost", "retry_after": 1},
        "request_id": answer.headers["request-id"],
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_a_timeout_cancels(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator, stream: bool
) -> None:
    coordinator.healthy = Health(False, "so that there are no pings")
    coordinator.script = [Gate(), "never"]
    hasty = client.with_options(timeout=0.2)
    # In a stream it is the body that is late, which the client leaves to its HTTP library.
    kind = httpx2.ReadTimeout if stream else anthropic.APITimeoutError
    with pytest.raises(kind):
        answer = await hasty.messages.create(**ASKED, stream=stream)
        if isinstance(answer, anthropic.AsyncStream):
            [event async for event in answer]
    await wait_for(lambda: coordinator.generations[0].closed == 1)
    assert coordinator.generations[0].finish is Finish.CANCELLED


async def test_closing_a_stream_cancels(
    client: anthropic.AsyncAnthropic, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["Hello", Gate(), "never"]
    async with client.messages.stream(**ASKED) as stream:
        async for text in stream.text_stream:
            assert text == "Hello"
            break
    await wait_for(lambda: coordinator.generations[0].closed == 1)
    assert coordinator.generations[0].finish is Finish.CANCELLED


async def test_pings_in_every_phase(
    client: anthropic.AsyncAnthropic, http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    queued, prefill, decode = Gate(), Gate(), Gate()
    coordinator.script = [queued, Now(Phase.PREFILL), prefill, "Hello", decode, " you"]
    received = ""
    gates = {0: queued, 1: prefill, 3: decode}
    async with http.stream("POST", MESSAGES, json={**ASKED, "stream": True}) as answer:
        async for text in answer.aiter_text():
            received += text
            pings = received.count("event: ping\n")
            # The third is the one that comes with the first block.
            for before, gate in gates.items():
                if pings > before and gate.reached:
                    gate.open()
    names = [line[7:] for line in received.splitlines() if line.startswith("event: ")]
    assert names[0] == "ping"
    assert received.count('event: ping\ndata: {"type":"ping"}\n\n') == names.count("ping") >= 4
    said = [name for name in names if name != "ping"]
    assert said[0] == "message_start"
    assert said.count("content_block_delta") == 2
    coordinator.script = ["Hello"]
    async with client.messages.stream(**ASKED) as stream:
        assert await stream.get_final_text() == "Hello"


# Bad input


def asked(**fields: Any) -> dict[str, Any]:
    return {**ASKED, **fields}


def less(field: str) -> dict[str, Any]:
    return {name: value for name, value in ASKED.items() if name != field}


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return asked(messages=[*ASKED["messages"], {"role": role, "content": content}])


INVALID, MISSING, LARGE = "invalid_request_error", "not_found_error", "request_too_large"
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}

# body, what its message must name; all of them are 400 and invalid_request_error
BAD: list[tuple[Any, str]] = [
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"null", "object"),
    (b"[]", "object"),
    (b"\xff\xfe{}", "UTF-8"),
    (json.dumps(ASKED).encode()[:-1] + b', "temperature": NaN}', "NaN"),
    (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested"),
    (less("messages"), "messages"),
    (less("max_tokens"), "max_tokens: field required"),
    (asked(messages=None), "messages"),
    (asked(messages=[]), "messages"),
    (asked(messages="hello"), "messages"),
    (asked(messages=["hello"]), "messages[0]"),
    (asked(messages=[{"content": "a"}]), "messages[0].role"),
    (asked(messages=[{"role": "tool", "content": "a"}]), "messages[0].role"),
    (asked(messages=[{"role": "user"}]), "messages[0].content"),
    (said(None), "messages[1].content"),
    (said(7), "messages[1].content"),
    (said([]), "messages[1].content"),
    (said([7]), "messages[1].content[0]"),
    (said([{"text": "a"}]), "messages[1].content[0].type"),
    (said([{"type": "text"}]), "messages[1].content[0].text"),
    (said([{"type": "text", "text": 1}]), "messages[1].content[0].text"),
    (said("\ud83d"), "messages[1].content"),
    (said([{"type": "image", "source": {}}]), "'image'"),
    (said([{"type": "document", "source": {}}]), "'document'"),
    (said([{"type": "server_tool_use", "input": 1}], "assistant"), "'server_tool_use'"),
    (said([USE]), "messages[1].content[0].type"),
    (said([RESULT], "assistant"), "messages[1].content[0].type"),
    (said([{"type": "thinking", "thinking": "a"}]), "messages[1].content[0].type"),
    (said([{**USE, "input": "{}"}], "assistant"), "messages[1].content[0].input"),
    (said([{**USE, "id": None}], "assistant"), "messages[1].content[0].id"),
    (said([{"type": "tool_result"}]), "messages[1].content[0].tool_use_id"),
    (said([{**RESULT, "content": 7}]), "messages[1].content[0].content"),
    (said([{**RESULT, "content": [{"type": "image"}]}]), "'image'"),
    (said([{**RESULT, "is_error": "yes"}]), "messages[1].content[0].is_error"),
    (said([USE], "assistant"), "tool_result"),
    (said("a\n", "assistant"), "white space"),
    (asked(system=7), "system"),
    (asked(system=[{"type": "image"}]), "system[0]"),
    (asked(system=[{"type": "text"}]), "system[0].text"),
    (asked(model=4), "model"),
    (asked(max_tokens=0), "max_tokens"),
    (asked(max_tokens=-1), "max_tokens"),
    (asked(max_tokens=1.5), "max_tokens"),
    (asked(max_tokens="ten"), "max_tokens"),
    (asked(max_tokens=True), "max_tokens"),
    (asked(max_tokens=None), "max_tokens"),
    (asked(temperature=-0.1), "temperature"),
    (asked(temperature=1.1), "temperature"),
    (asked(temperature="hot"), "temperature"),
    (asked(top_p=1.1), "top_p"),
    (asked(top_k=-1), "top_k"),
    (asked(top_k=1.5), "top_k"),
    (asked(stream="yes"), "stream"),
    (asked(stop_sequences="a"), "stop_sequences"),
    (asked(stop_sequences=[""]), "stop_sequences[0]"),
    (asked(stop_sequences=["a"] * 5), "stop_sequences"),
    (asked(stop_sequences=["x" * 1001]), "stop_sequences[0]"),
    (asked(thinking=True), "thinking"),
    (asked(thinking={"type": "always"}), "thinking.type"),
    (asked(thinking={"type": "enabled"}), "thinking.budget_tokens"),
    (asked(thinking={"type": "enabled", "budget_tokens": 100}), "1024"),
    (asked(thinking={"type": "enabled", "budget_tokens": 1024}), "max_tokens"),
    (asked(tools={}), "tools"),
    (asked(tools=[{"name": "f"}]), "tools[0].input_schema"),
    (asked(tools=[{"input_schema": {}}]), "tools[0].name"),
    (asked(tools=[{"name": "a b", "input_schema": {}}]), "tools[0].name"),
    (asked(tools=[{**TOOL, "input_schema": {"type": "string"}}]), "tools[0].input_schema.type"),
    (asked(tools=[TOOL, TOOL]), "tools[1].name"),
    (asked(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "web_search_20250305"),
    (asked(tool_choice="any"), "tool_choice"),
    (asked(tool_choice={"type": "any"}), "no tools"),
    (asked(tools=[TOOL], tool_choice={"type": "some"}), "tool_choice.type"),
    (asked(tools=[TOOL], tool_choice={"type": "tool"}), "tool_choice.name"),
    (asked(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), "'g'"),
    (asked(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
    (asked(output_config={"format": {"type": "xml"}}), "output_config.format.type"),
    (asked(output_config={"format": FORMAT}, output_format=FORMAT), "output_format"),
    (asked(mcp_servers=[{"type": "url"}]), "mcp_servers"),
    (asked(container={"skills": []}), "container"),
    (asked(thread={"type": "create"}), "thread"),
    (asked(thread={"type": "continue", "previous_message_id": "msg_1"}), "thread"),
    (asked(compaction={"type": "compact"}), "compaction"),
]
OTHERS: list[tuple[Any, int, str, str]] = [
    (asked(model="claude-sonnet"), 404, MISSING, "'claude-sonnet' is not served here"),
    (said("x" * LIMIT), 413, LARGE, "bytes"),
    (b" " * (LIMIT + 1), 413, LARGE, "bytes"),
]
TABLE = [(body, 400, INVALID, names) for body, names in BAD] + OTHERS
TOO_LONG = (said("fox " * 2000), 400, INVALID, "prompt is too long")

ACCEPTED: list[dict[str, Any]] = [
    less("model"),
    asked(max_tokens=10**30, temperature=1, top_p=0, top_k=0, stop_sequences=[]),
    asked(system=None, tools=None, tool_choice=None, thinking=None, output_config=None),
    asked(tools=[], tool_choice={"type": "auto"}, metadata={"user_id": "u"}, mcp_servers=[]),
    asked(tools=[{**TOOL, "type": "custom"}], tool_choice={"type": "none"}, inference_geo="eu"),
    asked(thinking={"type": "adaptive", "display": "omitted"}, output_config={"effort": "max"}),
    asked(thinking={"type": "disabled"}, service_tier="auto", context_management={"edits": []}),
    said([{**RESULT, "content": "done"}, {"type": "text", "text": "go on"}]),
    said([{"type": "text", "text": "a", "citations": None, "cache_control": None}]),
    said("Well", "assistant"),
    said([], "assistant"),
]


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


async def test_refused(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    for body, status, kind, names in [*TABLE, TOO_LONG]:
        answer = await http.post(MESSAGES, content=encoded(body))
        told = f"{encoded(body)[:200]!r}: {answer.text[:300]}"
        assert answer.status_code == status, told
        found = answer.json()
        assert set(found) == {"type", "error", "request_id"}, told
        assert (found["type"], found["error"]["type"]) == ("error", kind), told
        assert names in found["error"]["message"], told
        assert found["request_id"] == answer.headers["request-id"]
        assert (await http.get("/health")).status_code == 200
    assert coordinator.generations == []
    assert (await http.post(MESSAGES, json=ASKED)).status_code == 200


async def test_a_refused_stream_and_a_refused_count_are_refused_alike(
    http: httpx.AsyncClient,
) -> None:
    for body, status, kind, _ in TABLE:
        if isinstance(body, bytes):
            continue
        tried = [(MESSAGES, {"stream": True, **body})]
        if body.get("max_tokens") is not None:
            tried.append((COUNT, body))
        for path, sent in tried:
            answer = await http.post(path, content=encoded(sent))
            found = (answer.status_code, answer.json().get("error", {}).get("type"))
            assert found == (status, kind), f"{path} {encoded(sent)[:200]!r}: {answer.text[:300]}"


async def test_accepted(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    for count, body in enumerate(ACCEPTED, 1):
        answer = await http.post(MESSAGES, json=body)
        assert answer.status_code == 200, f"{body}: {answer.text}"
        assert len(coordinator.generations) == count
        counted = (await http.post(COUNT, json=body)).json()
        assert counted == {"input_tokens": answer.json()["usage"]["input_tokens"]}


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_paths_and_methods(http: httpx.AsyncClient, prefix: str) -> None:
    assert (await http.post(f"{prefix}/messages?beta=true", json=ASKED)).status_code == 200
    assert (await http.post(f"{prefix}/messages/count_tokens", json=ASKED)).status_code == 200
    answer = await http.get(f"{prefix}/messages")
    assert (answer.status_code, answer.json()["error"]["type"]) == (405, INVALID)
    answer = await http.post(f"{prefix}/messages/batches", json={})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, MISSING)
