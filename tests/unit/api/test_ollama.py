from __future__ import annotations

import json
import math
from typing import Any

import pytest

from api.ask import Ask, Chat, Wish
from api.convert.ollama import OllamaChat, OllamaGenerate, loads
from api.convert.ollama_answer import timestamp
from api.dialect import Choice
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import InvalidRequest, QueueFull, Unsupported
from cluster.core.request import Finish, Phase, Progress, Timing, TokenLogprob
from cluster.core.sampling import Sampling
from tests.unit.api.replies import finished

USER = {"role": "user", "content": "Say hello"}
TIMING = Timing(0.25, 0.5, 1.0, 1.75, 0.75)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BASE = {"model": "org/fake-model", "created_at": "2023-11-14T22:13:20.250000000Z"}
DONE = {
    "done": True,
    "total_duration": 1_750_000_000,
    "load_duration": 250_000_000,
    "prompt_eval_count": 5,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 2,
    "eval_duration": 1_000_000_000,
}


def chat(**fields: Any) -> Ask:
    return OllamaChat().read({"messages": [USER], **fields})


def generate(**fields: Any) -> Ask:
    return OllamaGenerate().read({"prompt": "Say hello", **fields})


def test_defaults_are_ollamas() -> None:
    made = chat()
    assert made.prompt == Chat((USER,), (), "none", "", None)
    assert made.sampling == Sampling(temperature=0.8, top_k=40, top_p=0.9)
    assert made.stream
    assert (made.max_tokens, made.seed, made.wish, made.logprobs) == (None, None, None, None)


def test_every_option_arrives() -> None:
    made = chat(
        stream=False,
        options={
            "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "seed": 11,
            "num_predict": 3, "stop": ["a", "b"], "repeat_penalty": 1.5, "presence_penalty": -1,
            "frequency_penalty": 2, "num_ctx": 2048,
        },
    )  # fmt: skip
    assert not made.stream
    assert (made.seed, made.max_tokens, made.stop) == (11, 3, ("a", "b"))
    assert made.sampling == Sampling(
        temperature=0.5, top_k=7, top_p=0.5, min_p=0.25, repetition_penalty=1.5,
        presence_penalty=-1.0, frequency_penalty=2.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"num_predict": -1}, "max_tokens", None),
        ({"num_predict": -2}, "max_tokens", None),
        ({"num_predict": 0}, "max_tokens", None),
        ({"num_predict": 5.0}, "max_tokens", 5),
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"stop": "END"}, "stop", ("END",)),
    ],
)
def test_edges(options: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(chat(options=options), field) == value


@pytest.mark.parametrize("read", [chat, generate])
def test_what_both_paths_read(read: Any) -> None:
    assert read(model="org/fake-model:latest").model == "org/fake-model"
    assert read(model="org/fake-model").model == "org/fake-model"
    assert read().model is None
    assert read(format="json").wish == Wish("format", "json_object")
    assert read(format={"type": "object"}).wish == Wish("format", "json", {"type": "object"})
    assert read(format="").wish is None
    assert [read(think=think).prompt.thinking for think in (True, False, "low", None)] == [
        True,
        False,
        True,
        None,
    ]
    assert read(logprobs=True).logprobs == 0
    assert read(logprobs=True, top_logprobs=5).logprobs == 5


def test_a_conversation() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    turns = [
        {"role": "system", "content": "Be brief"},
        {"role": "assistant", "thinking": "Hm", "tool_calls": [{**call, "id": "call_1"}, call]},
        {"role": "tool", "content": "2", "tool_name": "f"},
    ]
    prompt = chat(messages=turns, tools=[TOOL]).prompt
    assert isinstance(prompt, Chat)
    assert (prompt.tools, prompt.choice) == ((TOOL,), "auto")
    function = {"name": "f", "arguments": {"a": 1}}
    assert prompt.messages == (
        {"role": "system", "content": "Be brief"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Hm",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": function},
                {"id": "", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "", "name": "f"},
    )


def test_a_prompt() -> None:
    made = generate(system="Be brief", context=[1, 2], template="", suffix="")
    system = {"role": "system", "content": "Be brief"}
    assert made.prompt == Chat((system, USER), (), "none", "", None)
    assert made.prompt_param == "prompt"
    assert generate(raw=True).prompt == "Say hello"


@pytest.mark.parametrize(
    ("field", "value"), [("suffix", "a"), ("template", "a"), ("images", ["AA=="])]
)
def test_what_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=field) as caught:
        generate(**{field: value})
    assert caught.value.param == field
    with pytest.raises(Unsupported) as caught:
        chat(messages=[USER, {**USER, "images": ["AA=="]}])
    assert caught.value.param == "messages[1].images"


@pytest.mark.parametrize(
    ("body", "is_chat", "found"),
    [
        ({"model": "m:latest"}, False, ("m", None)),
        ({"model": "m", "prompt": ""}, False, ("m", None)),
        ({"prompt": "", "keep_alive": 0}, False, (None, 0.0)),
        ({"keep_alive": "0s"}, False, (None, 0.0)),
        ({"keep_alive": "0m0s"}, False, (None, 0.0)),
        ({"keep_alive": "1h1.5m10s"}, False, (None, 3700.0)),
        ({"keep_alive": -1}, False, (None, math.inf)),
        ({"prompt": "", "images": ["AA=="]}, False, None),
        ({"prompt": "a", "keep_alive": 0}, False, None),
        ({"keep_alive": "-1m"}, True, (None, math.inf)),
        ({"messages": [], "keep_alive": 0.0}, True, (None, 0.0)),
        ({"messages": [USER]}, True, None),
    ],
)
def test_what_has_nothing_to_answer(body: dict[str, Any], is_chat: bool, found: Any) -> None:
    assert loads(body, is_chat) == found


def test_nothing_to_answer_is_no_request() -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        chat(messages=[])
    with pytest.raises(InvalidRequest, match="prompt"):
        generate(prompt="")


def lines(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def test_a_chat_as_lines() -> None:
    writer = OllamaChat().writer(await finished(["a", "b"], chat(), timing=TIMING))
    assert lines(writer.parts(0, [Thought("Hm"), Text("日\n")], ())) == [
        {
            **BASE,
            "message": {"role": "assistant", "content": "", "thinking": "Hm"},
            "done": False,
        },
        {**BASE, "message": {"role": "assistant", "content": "日\n"}, "done": False},
    ]
    empty = {**BASE, "message": {"role": "assistant", "content": ""}}
    assert lines(writer.life(Progress(Phase.PREFILL, 5, 2, 0))) == [{**empty, "done": False}]
    assert writer.finish(0, Finish.LENGTH, None) == ""
    assert lines(writer.end()) == [{**empty, **DONE, "done_reason": "length"}]


async def test_calls_are_sent_whole() -> None:
    writer = OllamaChat().writer(await finished(["a", "b"], chat(), timing=TIMING))
    assert writer.parts(0, [CallBegun(0, "1f", "f"), CallArguments(0, '{"a": ')], ()) == ""
    assert writer.parts(0, [CallArguments(0, "1}")], ()) == ""

    def calls(text: str) -> list[Any]:
        return [line["message"].get("tool_calls") for line in lines(text)]

    first = {"id": "call_1f", "function": {"name": "f", "arguments": {"a": 1}}}
    more: list[Part] = [CallBegun(1, "2f", "g"), CallArguments(1, "{}"), Text("so")]
    second = {"id": "call_2f", "function": {"name": "g", "arguments": {}}}
    assert calls(writer.parts(0, more, ())) == [[first], [second], None]
    writer.parts(0, [CallBegun(2, "3f", "h"), CallArguments(2, "{}")], ())
    assert calls(writer.finish(0, Finish.STOP, None)) == [
        [{"id": "call_3f", "function": {"name": "h", "arguments": {}}}]
    ]


async def test_a_call_that_a_length_has_cut_off_is_left_out() -> None:
    reply = await finished(["a", Finish.LENGTH], chat(), timing=TIMING)
    writer = OllamaChat().writer(reply)
    writer.parts(0, [CallBegun(0, "1f", "f"), CallArguments(0, '{"a": ')], ())
    assert writer.finish(0, Finish.LENGTH, None) == ""
    calls = (Call("1f", "f", '{"a": 1}'), Call("2f", "f", '{"a": '))
    whole = OllamaChat().whole(reply, [Choice(0, "", "", calls, Finish.LENGTH)])
    assert [call["id"] for call in whole["message"]["tool_calls"]] == ["call_1f"]
    assert whole["done_reason"] == "length"


@pytest.mark.parametrize("value", ["1e999", '"\\ud83d"'])
async def test_arguments_that_cant_be_sent_are_an_empty_object(value: str) -> None:
    reply = await finished(["a"], chat(), timing=TIMING)
    call = Call("1f", "f", f'{{"a": {value}}}')
    whole = OllamaChat().whole(reply, [Choice(0, "", "", (call,), Finish.STOP)])
    assert whole["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


async def test_whole_answers() -> None:
    reply = await finished(["a", "b"], chat(), timing=TIMING, cached=3)
    choice = Choice(0, "ab", "Hm", (), Finish.STOP)
    assert OllamaChat().whole(reply, [choice]) == {
        **BASE,
        "message": {"role": "assistant", "content": "ab", "thinking": "Hm"},
        **DONE,
        "done_reason": "stop",
    }
    assert OllamaGenerate().whole(reply, [choice]) == {
        **BASE,
        "response": "ab",
        "thinking": "Hm",
        **DONE,
        "done_reason": "stop",
    }


async def test_logprobs_are_told_with_the_first_line_of_their_text() -> None:
    token = TokenLogprob("a", b"a", -0.5, (TokenLogprob("b", b"b", -float("inf")),))
    told = [
        {
            "token": "a", "logprob": -0.5, "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": [98]}],
        }
    ]  # fmt: skip
    ask = generate(logprobs=True, top_logprobs=1)
    writer = OllamaGenerate().writer(await finished(["a"], ask, timing=TIMING))
    made = lines(writer.parts(0, [Text("a"), Thought("b")], [token]))
    assert [line.get("logprobs") for line in made] == [told, None]
    (made,) = lines(writer.parts(0, [], [token]))
    assert (made["response"], made["logprobs"]) == ("", told)


async def test_errors() -> None:
    error = QueueFull("128 are waiting", retry_after=2.5)
    assert OllamaChat().refusal(error, "req_1") == (429, {"error": "128 are waiting"})
    writer = OllamaGenerate().writer(await finished(["a"], generate(), timing=TIMING))
    assert lines(writer.fail(error)) == [{"error": "128 are waiting", "retry_after": 3}]


def test_times_are_written_as_go_writes_them() -> None:
    assert timestamp(0.000001) == "1970-01-01T00:00:00.000001000Z"
