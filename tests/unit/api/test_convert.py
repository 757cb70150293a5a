from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.convert.fields import checked, path_of
from api.convert.openai_chat import (
    Chunks,
    choice_object,
    completion_object,
    orders_of,
    to_order,
    usage_object,
)
from api.convert.openai_format import to_format
from api.convert.openai_refuse import refuse_unsupported
from api.convert.openai_tools import forced_call
from api.schema.openai_chat import ChatRequest
from cluster.core.errors import InvalidRequest, RequestError
from cluster.core.request import Finish, Order, Piece, TokenLogprob, Usage
from cluster.core.sampling import Sampling
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import question


def order(tokenizer: Tokenizer, **fields: Any) -> Order:
    asked = checked(ChatRequest, question(**fields))
    refuse_unsupported(asked)
    form = forced_call(asked, tokenizer) or to_format(asked, tokenizer)
    return to_order(asked, tokenizer, form, fresh_seed=7)


def test_defaults(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.render([{"role": "user", "content": "Say hello"}])
    assert order(tokenizer) == Order(prompt=prompt, sampling=Sampling(seed=7))


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
    made = order(tokenizer, seed=-2, temperature=0.5, stop="x")
    orders = orders_of(made, 3)
    assert [one.sampling.seed for one in orders] == [2**64 - 2, 2**64 - 1, 0]
    assert orders == [order(tokenizer, seed=s, temperature=0.5, stop="x") for s in (-2, -1, 0)]


USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3)


def test_usage() -> None:
    assert usage_object(USAGE) == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_completion() -> None:
    choice = choice_object(0, "text", Finish.LENGTH, None)
    made = completion_object("chatcmpl-1", "m", 5, [choice], USAGE)
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["choices"][0]["message"]["content"] == "text"
    assert made["choices"][0]["logprobs"] is None
    assert (made["id"], made["model"], made["created"]) == ("chatcmpl-1", "m", 5)


@pytest.mark.parametrize("usage", [True, False])
def test_chunks(usage: bool) -> None:
    chunks = Chunks("chatcmpl-1", "m", 5, usage=usage)
    text, finish = chunks.piece(0, Piece("日\n", 2)), chunks.finish(0, Finish.STOP)
    lines = [chunks.role(0), text, finish, *chunks.end(USAGE)]
    assert lines.pop() == "[DONE]"
    assert all("\n" not in line for line in lines)
    events = [json.loads(line) for line in lines]
    assert {event["id"] for event in events} == {"chatcmpl-1"}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[1]["choices"][0]["delta"] == {"content": "日\n"}
    assert events[2]["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    assert len(events) == (4 if usage else 3)
    if usage:
        assert events[3]["choices"] == []
        assert events[3]["usage"] == usage_object(USAGE)
        assert all(event["usage"] is None for event in events[:3])
    else:
        assert all("usage" not in event for event in events)


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
    assert choice_object(0, "", Finish.STOP, [UNSURE])["logprobs"] == shape
    empty = choice_object(0, "", Finish.STOP, [])["logprobs"]
    assert empty == {"content": [], "refusal": None}
    chunks = Chunks("chatcmpl-1", "m", 5, usage=False, logprobs=True)
    choice = json.loads(chunks.piece(3, Piece("", 1, (UNSURE,))))["choices"][0]
    assert choice == {
        "index": 3, "delta": {"content": ""}, "logprobs": shape, "finish_reason": None,
    }  # fmt: skip
