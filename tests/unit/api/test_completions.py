"""OpenAI's completions without a server: how requests are read, and how answers are written."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from openai.types import Completion

from api.ask import Wish
from api.choices import Choices
from api.convert.openai_completions import OpenAICompletions
from api.dialect import Choice, Reply
from cluster.core.answer import Text
from cluster.core.errors import EpochEnded, InvalidRequest, Unsupported
from cluster.core.request import Finish, Order, Phase, Progress, TokenLogprob
from cluster.core.sampling import Sampling
from tests.unit.api.fake import FakeGeneration

DIALECT = OpenAICompletions()


def reply(**fields: Any) -> Reply:
    ask = DIALECT.read({"prompt": "Hello", **fields})
    generation = FakeGeneration(Order((1, 2, 3), Sampling()), [], "cmpl", 2)
    generation.progress = Progress(Phase.DECODE, 3, 3, 4)
    return Reply("cmpl-1", "req_1", "m", 5.5, ask, Choices([generation]))


def token(text: str, data: bytes = b"", logprob: float = -0.5, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(text, data or text.encode(), logprob, top)


def chunks(frames: str) -> list[Any]:
    data = [frame.removeprefix("data: ") for frame in frames.split("\n\n")[:-1]]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("Hello", "Hello"),
        (["Hello"], "Hello"),
        ([1, 2], (1, 2)),
        ([[1, 2]], (1, 2)),
    ],
)
def test_prompts(prompt: Any, read: Any) -> None:
    ask = DIALECT.read({"prompt": prompt})
    assert ask.prompt == read
    assert (ask.max_tokens, ask.n, ask.prompt_param) == (16, 1, "prompt")


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [True], [1, "a"], 7, {"a": 1}, [1.5]])
def test_what_is_no_prompt(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        DIALECT.read({"prompt": prompt})
    assert raised.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as raised:
        DIALECT.read({"prompt": "a", **fields})
    assert raised.value.param == param


def test_what_it_shares_with_chat() -> None:
    ask = DIALECT.read(
        {
            "prompt": "a",
            "temperature": 0.5,
            "top_p": 0,
            "stop": "x",
            "best_of": 2,
            "n": 2,
            "logprobs": 0,
            "guided_regex": "a+",
        }
    )
    assert (ask.sampling.temperature, ask.sampling.top_p) == (0.5, 1e-6)
    assert (ask.stop, ask.n, ask.logprobs) == (("x",), 2, 0)
    assert ask.wish == Wish("guided_regex", "regex", "a+")


def test_whole() -> None:
    sampled = (token("He", b"", -0.5, token("x")), token("llo", b"", -math.inf, token("llo")))
    choices = [
        Choice(0, "Hello", "", (), Finish.STOP, logprobs=sampled),
        Choice(1, "Hi", "", (), Finish.LENGTH),
    ]
    whole = DIALECT.whole(reply(logprobs=1, n=2), choices)
    Completion.model_validate(whole)
    assert whole["object"] == "text_completion"
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "length"]
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["He", "llo"],
        "token_logprobs": [-0.5, -9999.0],
        "top_logprobs": [{"x": -0.5, "He": -0.5}, {"llo": -9999.0}],
        "text_offset": [0, 2],
    }
    assert whole["usage"]["total_tokens"] == 7


def test_stream() -> None:
    writer = DIALECT.writer(reply(logprobs=0, stream_options={"include_usage": True}))
    frames = writer.parts(0, [Text("He")], [token("He")])
    frames += writer.parts(0, [], [token("\ufffd", b"\xf0\x9f")])
    frames += writer.parts(0, [Text("\U0001f98a")], [token("\ufffd", b"\xa6\x8a")])
    frames += writer.finish(0, Finish.STOP, None) + writer.end()
    *told, last, done = chunks(frames)
    Completion.model_validate(last)
    texts = [chunk["choices"][0]["text"] for chunk in told]
    assert texts == ["He", "", "\U0001f98a", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in told] == [None, None, None, "stop"]
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in told]
    assert [each and each["tokens"] for each in logprobs] == [
        ["He"],
        ["bytes:\\xf0\\x9f"],
        ["bytes:\\xa6\\x8a"],
        None,
    ]
    assert logprobs[1]["text_offset"] == [2]
    assert logprobs[1]["top_logprobs"] is None
    assert (last["choices"], last["usage"]["completion_tokens"], done) == ([], 4, "[DONE]")


def test_a_stream_that_fails_and_one_that_waits() -> None:
    writer = DIALECT.writer(reply())
    (error,) = chunks(writer.fail(EpochEnded("gone")))
    assert (error["error"]["code"], error["error"]["retry_after"]) == ("epoch_ended", 1)
    assert writer.life(Progress(Phase.QUEUED, 3, 0, 0)) == ": queued\n\n"
    assert "usage" not in chunks(writer.finish(0, Finish.LENGTH, None))[0]
