from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ask import Ask, Chat, Wish
from api.convert.anthropic import AnthropicMessages
from api.convert.anthropic_turns import without_billing
from api.convert.anthropic_write import PING, SIGNATURE, input_of, usage_object
from api.convert.orders import prepare, render
from api.convert.recall import Recall
from api.dialect import Choice, Reply
from api.schema.anthropic import MessagesRequest
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import (
    EpochEnded,
    Interrupted,
    InvalidRequest,
    NotReady,
    PromptTooLong,
    RequestError,
    TandemError,
    Unsupported,
)
from cluster.core.ids import new_request_id
from cluster.core.request import Finish, Phase, Progress, Usage
from cluster.core.sampling import Sampling
from cluster.text.tokenizer import Tokenizer

DIALECT = AnthropicMessages()
BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=1a2b3;"
TOOL = {"name": "f", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL_ID = "0123456789abcdef01234567"


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, **fields}


def chat(*turns: tuple[str, Any], **fields: Any) -> Chat:
    messages = [{"role": role, "content": content} for role, content in turns]
    found = DIALECT.read(body(messages=messages, **fields) if turns else body(**fields)).prompt
    assert isinstance(found, Chat)
    return found


def text(said: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


def use(call: str = "toolu_1", name: str = "f", **value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": name, "input": value}


def result(content: Any = None, call: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    content = {} if content is None else {"content": content}
    return {"type": "tool_result", "tool_use_id": call, **content, **fields}


# Reading


def test_the_least_that_can_be_asked() -> None:
    assert DIALECT.read(body()) == Ask(
        Chat(({"role": "user", "content": "hi"},), choice="none"), max_tokens=9
    )


def test_every_parameter_arrives() -> None:
    asked = DIALECT.read(
        body(
            model="m", stream=True, max_tokens=3, temperature=0.5, top_p=0, top_k=40,
            stop_sequences=["a", "b"], metadata={"user_id": "u"}, service_tier="auto",
            context_management={"edits": []}, cache_control={"type": "ephemeral"}, unknown=[1],
        )
    )  # fmt: skip
    assert (asked.model, asked.stream, asked.max_tokens) == ("m", True, 3)
    assert asked.stop == ("a", "b")
    assert asked.sampling == Sampling(temperature=0.5, top_p=1e-6, top_k=40)
    assert asked.seed is None


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("be kind", "be kind"),
        ([text("be "), text("kind", cache_control={"type": "ephemeral"})], "be kind"),
        ([text(BILLING), text("be kind")], "be kind"),
        (f"{BILLING}\nbe kind", "be kind"),
    ],
)
def test_the_system_prompt_comes_first(system: Any, said: str) -> None:
    assert chat(system=system).messages == (
        {"role": "system", "content": said},
        {"role": "user", "content": "hi"},
    )


@pytest.mark.parametrize("system", ["", [], None, BILLING, [text(BILLING)], [text("")]])
def test_a_system_prompt_that_says_nothing_is_none(system: Any) -> None:
    assert [message["role"] for message in chat(system=system).messages] == ["user"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BILLING, ""),
        (f"{BILLING}\n\nYou are", "You are"),
        (f"\n{BILLING}\n  indented", "  indented"),
        (f"You are {BILLING}", f"You are {BILLING}"),
        (f"You are\n{BILLING}\n", f"You are\n{BILLING}\n"),
        ("", ""),
    ],
)
def test_the_billing_line_is_dropped(before: str, after: str) -> None:
    assert without_billing(before) == after


def test_text_blocks_are_one_text() -> None:
    found = chat(("user", [text("a"), text("b", cache_control={"type": "ephemeral"})]))
    assert found.messages == ({"role": "user", "content": "ab"},)


def test_turns_of_a_user_in_a_row_are_one() -> None:
    found = chat(("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("user", "e"))
    assert [message["content"] for message in found.messages] == ["a\nb", "c", "d\ne"]


def test_a_system_turn_stays_where_it_is() -> None:
    roles = [m["role"] for m in chat(("user", "a"), ("system", "b"), ("user", "c")).messages]
    assert roles == ["user", "system", "user"]


def test_calls_and_their_results() -> None:
    found = chat(
        ("user", "go"),
        (
            "assistant",
            [
                {"type": "thinking", "thinking": "let me ", "signature": "x"},
                {"type": "redacted_thinking", "data": "??"},
                {"type": "thinking", "thinking": "see", "signature": "x"},
                text("I look"),
                use("toolu_1", "f", a=1),
                use("toolu_2", "g"),
            ],
        ),
        (
            "user",
            [
                result("one", "toolu_1"),
                text("now "),
                result([text("t"), text("wo")], "toolu_2", is_error=True),
                text("go on"),
            ],
        ),
    )
    one, two = {"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}
    assert found.messages[1:] == (
        {
            "role": "assistant",
            "content": "I look",
            "reasoning_content": "let me see",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": one},
                {"id": "toolu_2", "type": "function", "function": two},
            ],
        },
        {"role": "tool", "content": "one", "tool_call_id": "toolu_1", "name": "f"},
        {"role": "tool", "content": "two", "tool_call_id": "toolu_2", "name": "g"},
        {"role": "user", "content": "now go on"},
    )


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (result(), ""),
        (result([]), ""),
        (result("", is_error=True), "error"),
        (result("no such file", is_error=True), "no such file"),
    ],
)
def test_results_that_say_little(block: dict[str, Any], said: str) -> None:
    (message,) = chat(("user", [block])).messages
    assert message == {"role": "tool", "content": said, "tool_call_id": "toolu_1"}


def test_a_call_sent_back_is_known_again() -> None:
    recall = Recall()
    recall.remember("", [Call(CALL_ID, "f", '{"a": 1}')], [5, 6])
    found = chat(("user", "a"), ("assistant", [use(f"toolu_{CALL_ID}", a=1)]), ("user", [result()]))
    assert recall.spoken("", found.messages) == {1: (5, 6)}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", "")),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", "")),
        ({"type": "any"}, ("required", "")),
        ({"type": "tool", "name": "f"}, ("required", "f")),
        ({"type": "none"}, ("none", "")),
    ],
)
def test_tool_choice(choice: Any, expected: tuple[str, str]) -> None:
    found = chat(tools=[TOOL], tool_choice=choice)
    assert found.tools == (FUNCTION,)
    assert (found.choice, found.named) == expected


def test_a_tool_is_described() -> None:
    tool = {**TOOL, "type": "custom", "description": "does f", "cache_control": None}
    (found,) = chat(tools=[tool, {**TOOL, "name": "g"}]).tools[:1]
    assert found["function"] == {**FUNCTION["function"], "description": "does f"}  # type: ignore[dict-item]


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


def test_the_form_of_an_answer() -> None:
    asked = DIALECT.read(body(output_config={"format": FORMAT, "effort": "low"}))
    assert asked.wish == Wish("output_config.format.schema", "json", SCHEMA)
    asked = DIALECT.read(body(output_format=FORMAT))
    assert asked.wish == Wish("output_format.schema", "json", SCHEMA)
    assert DIALECT.read(body(output_config={"effort": "high"})).wish is None


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, None),
        ({"thinking": None}, None),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": ENABLED, "max_tokens": 1025}, True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"format": FORMAT}}, None),
        ({"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}}, None),
    ],
)
def test_thinking(fields: dict[str, Any], thinking: bool | None) -> None:
    assert chat(**fields).thinking is thinking


def test_a_count_needs_no_length() -> None:
    asked = DIALECT.read_count({"messages": body()["messages"], "thinking": ENABLED})
    assert asked.max_tokens is None
    assert isinstance(asked.prompt, Chat) and asked.prompt.thinking is True


def test_an_assistants_turn_that_comes_last_is_continued() -> None:
    found = chat(("user", "a"), ("assistant", [text("the "), text("answer")]))
    assert found.messages == ({"role": "user", "content": "a"},)
    assert (found.prefill, found.thinking) == ("the answer", False)
    assert chat(("user", "a"), ("assistant", [])).prefill == ""


REFUSED: list[tuple[dict[str, Any], type[RequestError], str]] = [
    (body(mcp_servers=[{"url": "x"}]), Unsupported, "mcp_servers"),
    (body(container="c"), Unsupported, "container"),
    (body(thread={"type": "create"}), Unsupported, "thread"),
    (body(compaction={"type": "compact"}), Unsupported, "compaction"),
    (body(system=[{"type": "image"}]), Unsupported, "system[0]"),
    (body(output_config={"format": FORMAT}, output_format=FORMAT), InvalidRequest, "output_format"),
    (body(thinking={"type": "enabled"}), InvalidRequest, "thinking.budget_tokens"),
    (
        body(thinking={"type": "enabled", "budget_tokens": 1023}, max_tokens=9999),
        InvalidRequest,
        "thinking.budget_tokens",
    ),
    (body(thinking=ENABLED, max_tokens=1024), InvalidRequest, "max_tokens"),
    (
        body(thinking=ENABLED, max_tokens=2000, tools=[TOOL], tool_choice={"type": "any"}),
        InvalidRequest,
        "thinking",
    ),
    (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), Unsupported, "tools[0]"),
    (body(tools=[TOOL, {"type": "bash_20250124", "name": "bash"}]), Unsupported, "tools[1]"),
    (body(tools=[{"name": "f"}]), InvalidRequest, "tools[0].input_schema"),
    (
        body(tools=[{"name": "f", "input_schema": {"type": "array"}}]),
        InvalidRequest,
        "tools[0].input_schema.type",
    ),
    (body(tools=[TOOL, TOOL]), InvalidRequest, "tools[1].name"),
    (body(tool_choice={"type": "any"}), InvalidRequest, "tool_choice"),
    (body(tools=[TOOL], tool_choice={"type": "tool"}), InvalidRequest, "tool_choice.name"),
    (
        body(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}),
        InvalidRequest,
        "tool_choice.name",
    ),
]
THOUGHT = {"type": "thinking", "thinking": "a"}
CONTENT: list[tuple[str, Any, type[RequestError], str]] = [
    ("user", [], InvalidRequest, "messages[1].content"),
    ("user", [{"type": "image", "source": {"type": "url"}}], Unsupported, "messages[1].content[0]"),
    ("user", [text("a"), {"type": "document"}], Unsupported, "messages[1].content[1]"),
    (
        "assistant",
        [{"type": "web_search_tool_result", "content": {"type": "error"}}],
        Unsupported,
        "messages[1].content[0]",
    ),
    ("user", [text(None)], InvalidRequest, "messages[1].content[0].text"),
    ("user", [use()], InvalidRequest, "messages[1].content[0].type"),
    ("user", [THOUGHT], InvalidRequest, "messages[1].content[0].type"),
    ("assistant", [result()], InvalidRequest, "messages[1].content[0].type"),
    ("assistant", [{"type": "thinking"}], InvalidRequest, "messages[1].content[0].thinking"),
    (
        "assistant",
        [{"type": "tool_use", "id": "1", "name": "f"}],
        InvalidRequest,
        "messages[1].content[0].input",
    ),
    ("user", [{"type": "tool_result"}], InvalidRequest, "messages[1].content[0].tool_use_id"),
    ("user", [result([{"type": "image"}])], Unsupported, "messages[1].content[0].content[0]"),
    (
        "user",
        [result([{"type": "text"}])],
        InvalidRequest,
        "messages[1].content[0].content[0].text",
    ),
    ("assistant", [use()], InvalidRequest, "messages[1]"),
    ("assistant", [THOUGHT], Unsupported, "messages[1]"),
    ("assistant", "a ", InvalidRequest, "messages[1].content"),
]
REFUSED += [
    (body(messages=[*body()["messages"], {"role": role, "content": content}]), kind, param)
    for role, content, kind, param in CONTENT
]
CONTINUED = [*body()["messages"], {"role": "assistant", "content": "a"}]
REFUSED += [
    (body(messages=CONTINUED, **fields), InvalidRequest, "messages[1]")
    for fields in (
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"output_config": {"format": FORMAT}},
        {"thinking": ENABLED, "max_tokens": 2000},
    )
]


@pytest.mark.parametrize(("asked", "kind", "param"), REFUSED)
def test_refused_by_name(asked: dict[str, Any], kind: type[RequestError], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        DIALECT.read(asked)
    assert (type(caught.value), caught.value.param) == (kind, param)
    assert param in str(caught.value)


KEYS = ["role", "content", "type", "text", "name", "id", "input", "thinking", "tool_use_id"]
WORDS = st.sampled_from(["user", "assistant", "text", "tool_use", "tool_result", "enabled", "any"])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(MessagesRequest.model_fields)), JSON, max_size=4))
@settings(max_examples=200)
def test_anything_is_an_ask_or_a_clear_refusal(fields: dict[str, Any]) -> None:
    refusal: RequestError | None = None
    try:
        assert DIALECT.read(body(**fields)).max_tokens
    except RequestError as error:
        refusal = error
    assert refusal is None or refusal.param


# The prompt


def test_a_continued_turn_is_part_of_the_prompt(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = DIALECT.read(body(messages=CONTINUED))
    made = prepare(asked, tokenizer, Recall(), owner="", scope="", fresh_seed=1)
    start = tokenizer.render([{"role": "user", "content": "hi"}])
    assert made.orders[0].prompt == start + tokenizer.encode("a")
    monkeypatch.setattr(Tokenizer, "thinks", lambda self, prompt: True)
    with pytest.raises(Unsupported, match="reasoning"):
        prepare(asked, tokenizer, Recall(), owner="", scope="", fresh_seed=1)


@pytest.mark.parametrize("fields", [{}, {"system": "s"}, {"output_config": {"format": FORMAT}}])
def test_a_count_is_the_length_of_the_prompt(tokenizer: Tokenizer, fields: dict[str, Any]) -> None:
    made = prepare(
        DIALECT.read(body(**fields)), tokenizer, Recall(), owner="", scope="", fresh_seed=1
    )
    _, prompt = render(DIALECT.read_count(body(**fields)), tokenizer, Recall(), owner="")
    assert prompt == made.orders[0].prompt


def test_the_billing_line_leaves_the_prompt_as_it_is(tokenizer: Tokenizer) -> None:
    def prompt(billing: str) -> tuple[int, ...]:
        asked = DIALECT.read_count(body(system=[text(billing), text("be kind")]))
        return render(asked, tokenizer, Recall(), owner="")[1]

    assert prompt(BILLING) == prompt(BILLING.replace("1a2b3", "4c5d6"))


# Writing


USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3)


@dataclass
class Told:
    usage: Usage


def reply(choices: Any = None) -> Reply:
    return Reply(
        new_request_id("msg_"), "req_1", "m", 0.0, DIALECT.read(body()), choices or Told(USAGE)
    )


def whole(*, calls: tuple[Call, ...] = (), **fields: Any) -> dict[str, Any]:
    asked = {"text": "", "thought": "", "finish": Finish.STOP, **fields}
    return DIALECT.whole(reply(), [Choice(index=0, calls=calls, **asked)])


def test_a_whole_answer() -> None:
    found = whole(thought="hm", text="I look", calls=(Call(CALL_ID, "f", '{"a": 1}'),))
    assert found.pop("id").startswith("msg_") and "-" not in str(found)
    assert found == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
            {"type": "text", "text": "I look"},
            {"type": "tool_use", "id": f"toolu_{CALL_ID}", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 3,
        },
    }


CUT = (Call(CALL_ID, "f", '{"a": '),)


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"text": "a"}, "end_turn", None),
        ({}, "end_turn", None),
        ({"finish": Finish.LENGTH}, "max_tokens", None),
        ({"finish": Finish.LENGTH, "calls": CUT}, "max_tokens", None),
        ({"stop": "END"}, "stop_sequence", "END"),
        ({"stop": "END", "calls": CUT}, "stop_sequence", "END"),
        ({"calls": CUT}, "tool_use", None),
    ],
)
def test_why_it_ended(fields: dict[str, Any], reason: str, sequence: str | None) -> None:
    found = whole(**fields)
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)
    assert len(found["content"]) == len(fields.get("calls", ())) + ("text" in fields)


@pytest.mark.parametrize(
    "arguments",
    ["", '{"a": ', "[1]", "null", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud83d"}', "[" * 10**5],
)
def test_arguments_that_are_no_object_or_cant_be_sent(arguments: str) -> None:
    assert input_of(arguments) == {}


def test_the_prompt_is_the_sum_of_its_counts() -> None:
    told = usage_object(Usage(100, 64, 7))
    assert told.pop("output_tokens") == 7
    assert sum(told.values()) == 100
    assert usage_object(Usage(100, 0, 7))["input_tokens"] == 100


# Streaming


def events(frames: str) -> list[dict[str, Any]]:
    found = []
    for frame in frames.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def stream(
    *batches: list[Part], finish: Finish = Finish.STOP, stop: str | None = None
) -> list[dict[str, Any]]:
    writer = DIALECT.writer(reply())
    frames = [writer.parts(0, batch, ()) for batch in batches]
    return events("".join([*frames, writer.finish(0, finish, stop), writer.end()]))


def brief(found: list[dict[str, Any]]) -> list[str]:
    """Each event in a word or three."""
    told = []
    for each in found:
        words = [each["type"].replace("content_block_", "")]
        words += [str(each["index"])] if "index" in each else []
        if "content_block" in each:
            words.append(each["content_block"]["type"])
        if each["type"] == "content_block_delta":
            words += list(each["delta"].values())
        told.append(" ".join(words))
    return told


def test_the_events_of_a_text() -> None:
    found = stream([Text("Hel"), Text("lo")], [Text("")], [Text("!")])
    assert brief(found) == [
        "message_start",
        "start 0 text",
        "ping",
        "delta 0 text_delta Hel",
        "delta 0 text_delta lo",
        "delta 0 text_delta !",
        "stop 0",
        "message_delta",
        "message_stop",
    ]
    start = found[0]["message"]
    assert start["content"] == []
    assert (start["stop_reason"], start["stop_sequence"]) == (None, None)
    assert (start["usage"]["input_tokens"], start["usage"]["cache_read_input_tokens"]) == (6, 4)
    assert found[1]["content_block"] == {"type": "text", "text": ""}
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": usage_object(USAGE),
    }
    assert found[-1] == {"type": "message_stop"}


def test_the_events_of_thinking_text_and_calls() -> None:
    found = stream(
        [Thought("h")],
        [Thought("m"), Text("I look"), CallBegun(0, CALL_ID, "f")],
        [CallArguments(0, '{"a"'), CallArguments(0, ": 1}"), CallBegun(1, "9" * 24, "g")],
        [CallArguments(1, "{}")],
    )
    assert brief(found) == [
        "message_start",
        "start 0 thinking",
        "ping",
        "delta 0 thinking_delta h",
        "delta 0 thinking_delta m",
        f"delta 0 signature_delta {SIGNATURE}",
        "stop 0",
        "start 1 text",
        "delta 1 text_delta I look",
        "stop 1",
        "start 2 tool_use",
        'delta 2 input_json_delta {"a"',
        "delta 2 input_json_delta : 1}",
        "stop 2",
        "start 3 tool_use",
        "delta 3 input_json_delta {}",
        "stop 3",
        "message_delta",
        "message_stop",
    ]
    assert found[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert found[10]["content_block"] == {
        "type": "tool_use",
        "id": f"toolu_{CALL_ID}",
        "name": "f",
        "input": {},
    }
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    found = stream([CallBegun(0, CALL_ID, "f"), CallArguments(0, "{}"), Text("b"), Thought("c")])
    assert [each for each in brief(found) if each.startswith("start")] == [
        "start 0 tool_use",
        "start 1 text",
        "start 2 thinking",
    ]


def test_the_events_of_nothing() -> None:
    assert brief(stream()) == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("ended", "delta"),
    [
        ({"finish": Finish.LENGTH}, {"stop_reason": "max_tokens", "stop_sequence": None}),
        ({"stop": "END"}, {"stop_reason": "stop_sequence", "stop_sequence": "END"}),
    ],
)
def test_the_end_of_a_stream(ended: dict[str, Any], delta: dict[str, Any]) -> None:
    begun = [CallBegun(0, CALL_ID, "f"), CallArguments(0, '{"a": ')]
    found = stream(begun, **ended)
    assert found[-2]["delta"] == delta
    assert brief(found)[-4:] == ['delta 0 input_json_delta {"a": ', "stop 0", *brief(found)[-2:]]


def test_usage_is_as_it_is_when_it_is_told() -> None:
    told = Told(Usage(10, 8, 1))
    writer = DIALECT.writer(reply(told))
    (start, *_) = events(writer.parts(0, [Text("a")], ()))
    told.usage = Usage(10, 8, 5)
    (*_, delta) = events(writer.finish(0, Finish.STOP, None))
    assert (start["message"]["usage"]["output_tokens"], delta["usage"]["output_tokens"]) == (1, 5)


def test_signs_of_life_are_pings_from_the_first_moment_on() -> None:
    writer = DIALECT.writer(reply())
    for phase in (Phase.QUEUED, Phase.PREFILL, Phase.DECODE):
        assert writer.life(Progress(phase, 1, 0, 0)) == PING
    assert events(PING) == [{"type": "ping"}]


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (EpochEnded("rank 1 was lost"), "overloaded_error", 1),
        (Interrupted("the answer is incomplete"), "overloaded_error", None),
    ],
)
def test_a_stream_that_fails(error: TandemError, kind: str, retry: int | None) -> None:
    (found,) = events(DIALECT.writer(reply()).fail(error))
    told = {"type": kind, "message": str(error)}
    assert found == {
        "type": "error",
        "error": told if retry is None else {**told, "retry_after": retry},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("no"), 400, "invalid_request_error"),
        (NotReady("loading", retry_after=1), 503, "overloaded_error"),
    ],
)
def test_refusals(error: TandemError, status: int, kind: str) -> None:
    body = {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": "req_1"}
    assert DIALECT.refusal(error, "req_1") == (status, body)


def test_a_prompt_that_is_too_long_is_said_in_the_words_that_clients_look_for() -> None:
    _, found = DIALECT.refusal(PromptTooLong(9000, 512), "req_1")
    assert found["error"]["message"].startswith("prompt is too long: 9000 tokens > 511 maximum")


def test_a_minute_of_silence_ends_with_an_event_that_clients_count() -> None:
    writer = AnthropicMessages().writer(reply())
    progress = Progress(Phase.PREFILL, 9, 3, 0)

    def signs(count: int) -> list[str]:
        frames = "".join(writer.life(progress) for _ in range(count))
        return re.findall(r"^event: (\w+)$", frames, re.MULTILINE)

    assert signs(14) == ["ping"] * 14
    assert signs(1) == ["message_start", "message_delta"]
    assert signs(15) == ["ping"] * 14 + ["message_delta"]
    begun = writer.parts(0, [Text("Hi")], ())
    assert "message_start" not in begun
    assert signs(1) == ["ping"]
