from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ask import Chat, Wish
from api.choices import Choices
from api.convert.fields import checked, path_of
from api.convert.form import AnswerFormat, check_answer, to_format
from api.convert.openai_chat import OpenAIChat, usage_object
from api.convert.openai_tools import arguments_of
from api.convert.orders import prepare
from api.convert.recall import Recall
from api.dialect import Choice, Reply
from api.schema.openai_chat import ChatRequest
from cluster.core.answer import Call, CallArguments, CallBegun, Text, Thought
from cluster.core.errors import InvalidRequest, RequestError
from cluster.core.request import Finish, Order, TokenLogprob, Usage
from cluster.core.sampling import Sampling
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import question


def orders(tokenizer: Tokenizer, **fields: Any) -> tuple[Order, ...]:
    ask = OpenAIChat().read(question(**fields))
    return prepare(ask, tokenizer, Recall(), owner="", scope="", fresh_seed=7).orders


def order(tokenizer: Tokenizer, **fields: Any) -> Order:
    return orders(tokenizer, **fields)[0]


def test_defaults(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.render([{"role": "user", "content": "Say hello"}])
    assert order(tokenizer) == Order(prompt=prompt, sampling=Sampling(seed=7), markers=True)


def test_every_parameter_arrives(tokenizer: Tokenizer) -> None:
    made = order(
        tokenizer,
        max_tokens=3, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1,
        presence_penalty=-1, frequency_penalty=2, logit_bias={"5": -100, "017": 2.5}, seed=11,
        stop=["a", "b"],
    )  # fmt: skip
    assert made.max_tokens == 3
    assert made.stop == ("a", "b")
    assert made.sampling == Sampling(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1,
        presence_penalty=-1.0, frequency_penalty=2.0, logit_bias={5: -100.0, 17: 2.5}, seed=11,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"seed": -1}, "seed", 2**64 - 1),
        ({"seed": 2**64 + 5}, "seed", 5),
        ({"seed": 0}, "seed", 0),
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 2}, "temperature", 2.0),
        ({"top_p": 0}, "top_p", 1e-6),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 0}, "top_k", 0),
    ],
)
def test_edges(tokenizer: Tokenizer, fields: dict[str, Any], attribute: str, value: Any) -> None:
    assert getattr(order(tokenizer, **fields).sampling, attribute) == value


def test_the_newer_name_of_max_tokens_wins(tokenizer: Tokenizer) -> None:
    assert order(tokenizer, max_tokens=5, max_completion_tokens=9).max_tokens == 9


def test_developer_is_system(tokenizer: Tokenizer) -> None:
    def prompt(role: str) -> tuple[int, ...]:
        return order(
            tokenizer,
            messages=[{"role": role, "content": "a"}, {"role": "user", "content": "b"}],
        ).prompt

    assert prompt("developer") == prompt("system")


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(fields=st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON, max_size=4))
@settings(max_examples=300)
def test_anything_is_an_order_or_a_clear_refusal(
    tokenizer: Tokenizer, fields: dict[str, Any]
) -> None:
    refusal: RequestError | None = None
    try:
        made = order(tokenizer, **fields)
        assert 0 <= made.sampling.seed < 2**64
        assert 0 < made.sampling.top_p <= 1
    except RequestError as error:
        refusal = error
    assert refusal is None or refusal.param is not None


def test_paths() -> None:
    assert path_of(("messages", 0, "content", 12, "text")) == "messages[0].content[12].text"
    assert path_of(()) == ""
    assert len(path_of(("x" * 5000,))) == 200


def test_the_first_fault_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"^messages\[0\]\.role: input should be") as caught:
        checked(ChatRequest, {"messages": [{"role": "robot"}], "n": 0})
    assert caught.value.param == "messages[0].role"


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs(tokenizer: Tokenizer, fields: dict[str, Any], logprobs: int | None) -> None:
    assert order(tokenizer, **fields).logprobs == logprobs


def test_when_an_answer_may_end(tokenizer: Tokenizer) -> None:
    made = order(tokenizer, min_tokens=3, max_tokens=3, ignore_eos=True)
    assert (made.min_tokens, made.max_tokens, made.ignore_eos) == (3, 3, True)


def test_a_choice_is_what_its_seed_alone_would_get(tokenizer: Tokenizer) -> None:
    made = orders(tokenizer, seed=-2, temperature=0.5, stop="x", n=3)
    assert [one.sampling.seed for one in made] == [2**64 - 2, 2**64 - 1, 0]
    alone = [order(tokenizer, seed=s, temperature=0.5, stop="x") for s in (-2, -1, 0)]
    assert list(made) == alone


USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3)


def test_usage() -> None:
    assert usage_object(USAGE) == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


class Counted(Choices):
    """Choices of which only the counts are looked at."""

    def __init__(self) -> None:
        super().__init__([])

    @property
    def usage(self) -> Usage:
        return USAGE


def reply(**fields: Any) -> Reply:
    ask = OpenAIChat().read(question(**fields))
    return Reply("chatcmpl-1", "req_1", "m", 5.5, ask, Counted())


def whole(choice: Choice, **fields: Any) -> dict[str, Any]:
    return OpenAIChat().whole(reply(**fields), [choice])


def test_completion() -> None:
    made = whole(Choice(0, "text", "", (), Finish.LENGTH))
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["choices"][0]["message"]["content"] == "text"
    assert made["choices"][0]["logprobs"] is None
    assert (made["id"], made["model"], made["created"]) == ("chatcmpl-1", "m", 5)


CALL = Call("0f", "add", '{"a": 1}')


def test_a_call_beside_no_text() -> None:
    made = whole(Choice(0, "", "Let me see.", (CALL,), Finish.STOP))["choices"][0]
    function = {"name": "add", "arguments": '{"a": 1}'}
    assert made["finish_reason"] == "tool_calls"
    assert made["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Let me see.",
        "tool_calls": [{"id": "call_0f", "type": "function", "function": function}],
    }


def events(frames: str) -> list[Any]:
    lines = [frame.removeprefix("data: ") for frame in frames.split("\n\n") if frame]
    assert all("\n" not in line for line in lines)
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("usage", [True, False])
def test_chunks(usage: bool) -> None:
    writer = OpenAIChat().writer(reply(stream_options={"include_usage": usage}))
    frames = writer.parts(0, [Text("日\n")], ()) + writer.finish(0, Finish.STOP, None)
    made = events(frames + writer.end())
    assert made.pop() == "[DONE]"
    assert {event["id"] for event in made} == {"chatcmpl-1"}
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert made[1]["choices"][0]["delta"] == {"content": "日\n"}
    assert made[2]["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    assert len(made) == (4 if usage else 3)
    if usage:
        assert made[3]["choices"] == []
        assert made[3]["usage"] == usage_object(USAGE)
        assert all(event["usage"] is None for event in made[:3])
    else:
        assert all("usage" not in event for event in made)


def test_chunks_of_thoughts_and_calls() -> None:
    writer = OpenAIChat().writer(reply())
    parts = [
        Thought("Hm"),
        CallBegun(0, "0f", "add"),
        CallArguments(0, '{"a"'),
        CallArguments(0, ": 1}"),
        CallBegun(1, "1e", "now"),
        CallArguments(1, "{}"),
    ]
    made = events(writer.parts(0, parts, ()) + writer.finish(0, Finish.STOP, None))
    assert made[1]["choices"][0]["delta"] == {"reasoning_content": "Hm"}
    calls = [c for e in made for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert calls[0]["id"] == "call_0f"
    assert "".join(call["function"]["arguments"] for call in calls[:3]) == '{"a": 1}'
    assert made[-1]["choices"][0]["finish_reason"] == "tool_calls"


UNSURE = TokenLogprob("\ufffd", b"\xe6", -0.5, (TokenLogprob("a", b"a", -float("inf")),))


def test_logprobs_in_openais_shape() -> None:
    shape = {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -0.5,
                "bytes": [230],
                "top_logprobs": [{"token": "a", "logprob": -9999.0, "bytes": [97]}],
            }
        ],
        "refusal": None,
    }

    def told(*tokens: TokenLogprob) -> Any:
        choice = Choice(0, "", "", (), Finish.STOP, logprobs=tokens)
        return whole(choice, logprobs=True)["choices"][0]["logprobs"]

    assert told(UNSURE) == shape
    assert told() == {"content": [], "refusal": None}
    writer = OpenAIChat().writer(reply(logprobs=True))
    choice = events(writer.parts(3, (), (UNSURE,)))[1]["choices"][0]
    assert choice == {
        "index": 3, "delta": {"content": ""}, "logprobs": shape, "finish_reason": None,
    }  # fmt: skip


def test_a_replayed_call_is_recalled_while_it_is_unchanged() -> None:
    recall = Recall(largest=5)
    recall.remember("me", [CALL], (1, 2, 3))
    asked = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_0f", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    ]}  # fmt: skip

    def spoken(owner: str) -> Any:
        ask = OpenAIChat().read({"messages": [{"role": "user", "content": "?"}, asked]})
        assert isinstance(ask.prompt, Chat)
        return recall.spoken(owner, ask.prompt.messages)

    assert spoken("me") == {1: (1, 2, 3)}
    assert spoken("you") == {}
    asked["tool_calls"][0]["function"]["arguments"] = '{"a": 2}'  # type: ignore[index]
    assert spoken("me") == {}
    recall.remember("me", [Call("1e", "add", "{}")], (4, 5, 6))
    assert len(recall) == 1


@pytest.mark.parametrize("value", [True, 1, 0.5, ["a"]])
def test_arguments_that_are_no_json_text_are_kept(value: Any, tokenizer: Tokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": value}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert arguments_of(value) == {"arguments": value}
    assert orders(tokenizer, messages=[said])


def test_arguments_that_are_nested_too_deeply_are_kept_as_they_are_written() -> None:
    for deep in (500, 100_000):
        text = '{"a": ' * deep + "1" + "}" * deep
        assert arguments_of(text) == {"arguments": text}


def test_a_schema_that_is_nested_too_deeply_is_refused(tokenizer: Tokenizer) -> None:
    for deep in (500, 100_000):
        text = '{"a": ' * deep + "1" + "}" * deep
        with pytest.raises(InvalidRequest, match="guided_json"):
            to_format(Wish("guided_json", "json", text), tokenizer)


def test_a_json_answer_that_is_too_deep_to_be_read_is_an_answer() -> None:
    text = "[" * 100_000 + "]" * 100_000
    check_answer(AnswerFormat("g", json=True), text, Finish.STOP, stops=False)
