"""OpenAI's responses without a server: how requests are read, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.ask import Chat, Wish
from api.choices import Choices
from api.convert.openai_responses import OpenAIResponses
from api.convert.openai_responses_items import StoredItem
from api.convert.openai_responses_read import ResponsesAsk
from api.convert.openai_responses_write import ResponseWriter
from api.dialect import Choice, Reply
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import EpochEnded, NotFound, RequestError, Unsupported
from cluster.core.request import Finish, Order, Phase, Progress, TokenLogprob
from cluster.core.sampling import Sampling
from tests.unit.api.fake import FakeGeneration

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
ID = "resp_abc"


class Nothing:
    """No earlier response."""

    def conversation(self, response_id: str) -> Sequence[StoredItem]:
        raise NotFound("nothing is stored", param="previous_response_id")

    def item(self, item_id: str) -> StoredItem:
        raise NotFound("nothing is stored", param="input")


DIALECT = OpenAIResponses(Nothing(), now=lambda: 9.0)


def read(**fields: Any) -> ResponsesAsk:
    return DIALECT.read({"input": "Hello", **fields})


def messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    prompt = read(input=list(items), **fields).prompt
    assert isinstance(prompt, Chat)
    return list(prompt.messages)


def writing(**fields: Any) -> tuple[ResponseWriter, FakeGeneration]:
    generation = FakeGeneration(Order((1, 2, 3), Sampling()), [], "resp", 2)
    generation.progress = Progress(Phase.DECODE, 3, 3, 4)
    reply = Reply("resp-abc", "req_1", "m", 5.5, read(**fields), Choices([generation]))
    return DIALECT.writer(reply), generation


def events(frames: str) -> list[dict[str, Any]]:
    """Each as the SDK's types want it, and named alike in both places."""
    found = []
    for frame in frames.split("\n\n")[:-1]:
        if frame.startswith(":"):
            continue
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        EVENTS.validate_python(value)
        found.append(value)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def names(found: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def told(*parts: Part, finish: Finish = Finish.STOP, **fields: Any) -> list[dict[str, Any]]:
    writer, _ = writing(**fields)
    frames = "".join(writer.parts(0, [part], ()) for part in parts)
    found = events(frames + writer.finish(0, finish, None) + writer.end())
    assert found[-1]["response"] == writer.response()
    Response.model_validate(writer.response())
    return found


BEGUN = ["created", "in_progress"]
SAID = ["output_item.added", "content_part.added", "output_text.delta"]
SAID_ALL = ["output_text.done", "content_part.done", "output_item.done"]


# How requests are read


def test_a_string_is_what_the_user_says() -> None:
    ask = read(instructions="Be brief")
    assert isinstance(ask.prompt, Chat)
    assert ask.prompt.messages == (
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hello"},
    )
    assert ask.store
    assert not ask.background
    assert ask.prompt_param == "input"


def test_leading_instructions_are_one_system_message() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "Be kind"}]}
    user = {"type": "message", "role": "user", "content": "a"}
    assert messages(developer, user, developer, instructions="Be brief") == [
        {"role": "system", "content": "Be brief\n\nBe kind"},
        {"role": "user", "content": "a"},
        {"role": "system", "content": "Be kind"},
    ]


def test_what_an_assistant_did_at_a_time_is_one_turn() -> None:
    call = {"type": "function_call", "name": "f", "arguments": '{"x": 1}'}
    found = messages(
        {"role": "user", "content": "a"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {**call, "call_id": "call_1"},
        {**call, "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "2"}],
        },
        {
            "type": "reasoning",
            "content": [{"type": "reasoning_text", "text": "so"}],
            "summary": [],
        },
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
    )
    function = {"name": "f", "arguments": {"x": 1}}
    assert found == [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": function},
                {"id": "call_2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "call_1", "name": "f"},
        {"role": "tool", "content": "2", "tool_call_id": "call_2", "name": "f"},
        {"role": "assistant", "content": "c", "reasoning_content": "so"},
        {"role": "assistant", "content": "d"},
    ]


def test_calls_of_other_kinds_are_calls() -> None:
    found = messages(
        {"role": "user", "content": "a"},
        {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "+x"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
        {"type": "local_shell_call", "call_id": "2", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "2", "output": "api"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    )
    calls = [m["tool_calls"][0]["function"] for m in found if m["role"] == "assistant"]
    assert calls == [
        {"name": "patch", "arguments": {"input": "+x"}},
        {"name": "local_shell", "arguments": {"command": ["ls"]}},
    ]
    outputs = [(m["tool_call_id"], m["content"]) for m in found if m["role"] == "tool"]
    assert outputs == [("1", "done"), ("2", "api")]


def test_functions_are_taken_and_other_tools_left_out() -> None:
    ask = read(tools=[TOOL, {"type": "web_search"}, {"type": "custom", "name": "p"}])
    assert isinstance(ask.prompt, Chat)
    assert ask.prompt.tools == (
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
    )
    assert (ask.prompt.choice, ask.prompt.named) == ("auto", "")
    assert ask.warning == "tools of the types custom, web_search are left out"
    assert [tool["type"] for tool in ask.told["tools"]] == ["function", "web_search", "custom"]
    named = read(tools=[TOOL], tool_choice={"type": "function", "name": "f"}).prompt
    assert isinstance(named, Chat)
    assert (named.choice, named.named) == ("required", "f")
    none = read(tools=[{"type": "web_search"}]).prompt
    assert isinstance(none, Chat)
    assert (none.tools, none.choice) == ((), "none")


@pytest.mark.parametrize(
    ("form", "wish"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Wish("text.format", "json_object")),
        (
            {"type": "json_schema", "name": "x", "schema": {"type": "object"}},
            Wish("text.format.schema", "json", {"type": "object"}),
        ),
    ],
)
def test_the_form_of_the_text(form: dict[str, Any], wish: Wish | None) -> None:
    assert read(text={"format": form}).wish == wish


def test_reasoning_and_logprobs() -> None:
    def thinking(**fields: Any) -> bool | None:
        prompt = read(**fields).prompt
        assert isinstance(prompt, Chat)
        return prompt.thinking

    assert thinking() is None
    assert thinking(reasoning={"effort": "none"}) is False
    assert thinking(reasoning={"effort": "low"}) is True
    assert read().logprobs is None
    assert read(include=["message.output_text.logprobs"]).logprobs == 0
    assert read(top_logprobs=3).logprobs == 3
    assert read(reasoning={"summary": "auto"}).summarized


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"input": [{"type": "computer_call", "id": "1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as raised:
        read(**fields)
    assert raised.value.param == param


def test_earlier_turns_come_first_without_their_instructions() -> None:
    class One(Nothing):
        def conversation(self, response_id: str) -> Sequence[StoredItem]:
            assert response_id == "resp_1"
            return before

        def item(self, item_id: str) -> StoredItem:
            return next(item for item in before if item["id"] == item_id)

    first = read(input="one", instructions="gone")
    before = [*first.items, *told(Text("two"))[-1]["response"]["output"]]
    dialect = OpenAIResponses(One())
    ask = dialect.read({"input": "three", "previous_response_id": "resp_1"})
    assert isinstance(ask.prompt, Chat)
    assert [m["content"] for m in ask.prompt.messages] == ["one", "two", "three"]
    assert len(ask.items) == 1
    assert ask.previous == "resp_1"
    reference = {"type": "item_reference", "id": before[1]["id"]}
    ask = dialect.read({"input": [{"id": before[0]["id"]}, reference]})
    assert isinstance(ask.prompt, Chat)
    assert [m["role"] for m in ask.prompt.messages] == ["user", "assistant"]


def test_items_get_ids_of_their_own() -> None:
    items = [{"role": "user", "content": "a"}, {"id": "msg_x", "role": "user", "content": "b"}]
    ids = [item["id"] for item in read(input=items).items]
    assert ids[0].startswith("msg_")
    assert ids[1] == "msg_x"


# How answers are written


def test_text() -> None:
    found = told(Text("Hel"), Text("lo"))
    assert names(found) == [*BEGUN, *SAID, "output_text.delta", *SAID_ALL, "completed"]
    assert [event["delta"] for event in found if "delta" in event] == ["Hel", "lo"]
    response = found[-1]["response"]
    (message,) = response["output"]
    assert message["content"][0]["text"] == "Hello"
    assert message["status"] == "completed"
    assert found[0]["response"]["status"] == "in_progress"
    assert found[0]["response"]["usage"] is None
    assert (response["id"], response["status"], response["created_at"]) == (ID, "completed", 5)
    assert response["completed_at"] == 9
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_reasoning_text_and_two_calls() -> None:
    found = told(
        Thought("hm"),
        Thought("m"),
        Text("I call"),
        CallBegun(0, "a" * 24, "f"),
        CallArguments(0, '{"x"'),
        CallArguments(0, ":1}"),
        CallBegun(1, "b" * 24, "g"),
        CallArguments(1, "{}"),
    )
    called = ["function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert names(found) == [
        *BEGUN,
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        *SAID,
        *SAID_ALL,
        "output_item.added",
        "function_call_arguments.delta",
        *called,
        "output_item.added",
        *called,
        "completed",
    ]
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hmm"}]
    assert output[2]["call_id"] == f"call_{'a' * 24}"
    assert [item.get("arguments") for item in output[2:]] == ['{"x":1}', "{}"]
    assert len({item["id"] for item in output}) == 4
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == output
    assert [event["output_index"] for event in done] == [0, 1, 2, 3]


def test_reasoning_is_a_summary_where_that_was_asked_for() -> None:
    found = told(Thought("hm"), Text("a"), reasoning={"summary": "auto"})
    assert names(found)[2:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    (reasoning, _) = found[-1]["response"]["output"]
    assert (reasoning["summary"][0]["text"], reasoning["content"]) == ("hm", [])


def test_an_answer_cut_off_is_incomplete() -> None:
    found = told(Text("Hel"), finish=Finish.LENGTH)
    response = found[-1]["response"]
    assert found[-1]["type"] == "response.incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_an_empty_answer_is_an_empty_message() -> None:
    (message,) = told()[-1]["response"]["output"]
    assert message["content"][0]["text"] == ""
    thought = told(Thought("hm"))[-1]["response"]["output"]
    assert [item["type"] for item in thought] == ["reasoning", "message"]
    cut = told(Thought("hm"), finish=Finish.LENGTH)[-1]["response"]["output"]
    assert [item["type"] for item in cut] == ["reasoning"]


def test_a_failure_is_an_error_and_a_failed_response() -> None:
    writer, _ = writing()
    found = events(writer.parts(0, [Text("Hel")], ()) + writer.fail(EpochEnded("a node is gone")))
    assert names(found) == [*BEGUN, *SAID, *SAID_ALL, "error", "failed"]
    assert found[-2]["code"] == "epoch_ended"
    assert found[-2]["message"] == "a node is gone"
    assert found[-2]["retry_after"] == 1
    response = found[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "a node is gone"}
    assert response["output"][0]["status"] == "incomplete"
    assert "".join(item["content"][0]["text"] for item in response["output"]) == "Hel"


def test_a_failure_before_anything_was_said() -> None:
    writer, _ = writing()
    assert names(events(writer.fail(EpochEnded("gone")))) == [*BEGUN, "error", "failed"]


def test_cancelled() -> None:
    writer, _ = writing()
    found = events(writer.parts(0, [Text("Hel")], ()) + writer.cancelled())
    assert names(found) == [*BEGUN, *SAID, *SAID_ALL, "incomplete"]
    assert found[-1]["response"]["status"] == "cancelled"
    assert found[-1]["response"]["incomplete_details"] is None


def test_the_first_sign_of_life_begins_the_response() -> None:
    writer, generation = writing()
    frames = writer.life(generation.progress)
    assert frames.endswith(": decode 4\n\n")
    assert names(events(frames)) == BEGUN
    assert writer.begin() == ""


def test_a_sign_of_life_is_an_event_that_changes_nothing() -> None:
    """Codex counts no comments."""
    writer, generation = writing()
    before = writer.parts(0, [Text("Hel")], ())
    sign, line, _ = writer.life(generation.progress).split("\n\n")
    assert line == ": decode 4"
    told = json.loads(sign.partition("data: ")[2])
    EVENTS.validate_python(told)
    assert told["type"] == "response.in_progress"
    assert told["sequence_number"] == events(before)[-1]["sequence_number"]
    assert told["response"]["output"][0]["content"][0]["text"] == "Hel"
    events(before + writer.parts(0, [Text("lo")], ()))


def test_in_the_background_it_is_queued_until_something_comes() -> None:
    writer, generation = writing(background=True)
    generation.progress = Progress(Phase.QUEUED, 3, 0, 0)
    frames = writer.begin()
    assert names(events(frames)) == ["created", "queued"]
    assert writer.response()["status"] == "queued"
    generation.progress = Progress(Phase.DECODE, 3, 3, 1)
    assert writer.response()["status"] == "in_progress"
    found = events(frames + writer.parts(0, [Text("a")], ()))
    assert names(found) == ["created", "queued", "in_progress", *SAID]
    assert writer.response()["output"][0]["content"][0]["text"] == "a"


def test_logprobs_go_with_the_text_they_made() -> None:
    def token(text: str) -> TokenLogprob:
        return TokenLogprob(text, text.encode(), -0.5, (TokenLogprob("x", b"x", -1.0),))

    writer, _ = writing(top_logprobs=1)
    frames = writer.parts(0, [], [token("He")]) + writer.parts(0, [Text("Hello")], [token("llo")])
    frames += writer.parts(0, [], [token("!")])
    found = events(frames + writer.finish(0, Finish.STOP, None) + writer.end())
    (delta,) = [event for event in found if "delta" in event]
    assert [each["token"] for each in delta["logprobs"]] == ["He", "llo"]
    content = found[-1]["response"]["output"][0]["content"][0]
    assert [each["token"] for each in content["logprobs"]] == ["He", "llo", "!"]
    assert content["logprobs"][0]["top_logprobs"][0]["logprob"] == -1.0
    unasked, _ = writing()
    frames = unasked.parts(0, [Text("a")], [token("a")])
    assert events(frames)[-1]["logprobs"] == []


def test_whole_equals_streamed() -> None:
    streamed, generation = writing()
    parts: list[Part] = [Thought("hm"), Text("Hel"), Text("lo")]
    parts += [CallBegun(0, "a" * 24, "f"), CallArguments(0, "{}")]
    for part in parts:
        streamed.parts(0, [part], ())
    streamed.finish(0, Finish.STOP, None)
    streamed.end()
    choice = Choice(0, "Hello", "hm", (Call("a" * 24, "f", "{}"),), Finish.STOP)
    reply = Reply("resp-abc", "req_1", "m", 5.5, read(), Choices([generation]))
    assert DIALECT.whole(reply, [choice]) == streamed.response()


def test_metadata_and_the_like_are_repeated() -> None:
    fields = {"metadata": {"a": "b"}, "user": "u", "temperature": 0.5, "max_output_tokens": 7}
    response = told(Text("a"), **fields)[-1]["response"]
    assert {name: response[name] for name in fields} == fields


def test_errors_say_the_place() -> None:
    with pytest.raises(RequestError) as raised:
        read(tools=[{"type": "web_search"}, {"type": "function", "name": 7}])
    assert raised.value.param == "tools[1].name"
