from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench.answer import DETAIL, Answer
from cluster.bench.ask import Body
from cluster.bench.events import LINE, Events
from cluster.core.errors import AnswerFailed

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")
HEADERS = {"content-type": "text/event-stream; charset=utf-8"}


def sse(*events: object) -> bytes:
    return b"".join(
        b"data: " + (e.encode() if isinstance(e, str) else json.dumps(e).encode()) + b"\n\n"
        for e in events
    )


def delta(finish: object = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 3}
WHOLE = (
    delta(role="assistant", content=""),
    delta(content="Hel"),
    delta(content="lo"),
    delta("length"),
    {"choices": [], "usage": USAGE},
    "[DONE]",
)


def answered(*parts: tuple[float, bytes], hang_up: int | None = None) -> Answer:
    answer = Answer(hang_up)
    answer.head(200, HEADERS)
    for now, data in parts:
        answer.body(data, now)
    return answer


@given(st.lists(st.text(LETTERS), max_size=4), st.data())
def test_events_do_not_depend_on_how_bytes_arrive(texts: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    raw = "".join(f": sign{end}event: x{end}data: {text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    events = Events()
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    found = [event for piece in pieces for event in events.feed(piece)]
    assert found == [text.encode() for text in texts]


def test_several_data_lines_are_one_event() -> None:
    assert Events().feed(b"data: {\ndata:1}\n\n: ping\n\n") == [b"{\n1}"]


def test_half_a_character_does_no_harm() -> None:
    answer = answered((1.0, sse(delta(content="\ud800"), delta(5), "[DONE]")))
    answer.end()
    assert answer.finish == "5"
    again = Body("m").of([{"role": "assistant", "content": answer.text}], 1)
    assert json.loads(again)["messages"][0]["content"] == "\ud800"
    with pytest.raises(AnswerFailed) as caught:
        answered((1.0, sse({"error": "\ud800"})))
    assert str(caught.value).encode() == b"?"


def test_an_endless_line_is_refused() -> None:
    events = Events()
    with pytest.raises(AnswerFailed, match="longer than"):
        for _ in range(3):
            events.feed(b"x" * (LINE // 2))


def test_what_is_noted_of_an_answer() -> None:
    answer = answered(
        (1.0, sse(WHOLE[0]) + b": prefill 1/2\n\n"),
        (2.0, sse(WHOLE[1])),
        (3.0, sse(*WHOLE[2:4])),
        (4.0, sse(*WHOLE[4:])),
    )
    answer.end()
    assert list(answer.times) == [2.0, 3.0]  # a role is no token, nor is a sign of life
    assert (answer.text, answer.finish, answer.usage) == ("Hello", "length", USAGE)
    assert answer.complete and answer.ended == 4.0
    assert not answer.enough


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_and_calls_are_tokens_too(name: str) -> None:
    call = {"index": 0, "function": {"arguments": "{"}}
    answer = answered((1.0, sse(delta(**{name: "hm"}))), (2.0, sse(delta(tool_calls=[call]))))
    assert list(answer.times) == [1.0, 2.0]
    assert answer.text == ""


def test_a_finish_without_done_is_an_end() -> None:
    answered((1.0, sse(*WHOLE[:4]))).end()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("hung_up", b""),
        ("hung_up", sse(*WHOLE[:3])),
        ("hung_up", sse(WHOLE[1]) + b"data: [DONE]"),
        ("empty", sse(WHOLE[0], delta("stop"), "[DONE]")),
        ("error_event", sse(WHOLE[1], {"error": {"message": "the epoch ended"}})),
        ("error_event", sse({"error": "plain"})),
        ("bad_stream", sse("{")),
        ("bad_stream", sse("[1]")),
        ("bad_stream", sse({"choices": [3]})),
    ],
)
def test_failures_have_a_kind(kind: str, data: bytes) -> None:
    with pytest.raises(AnswerFailed) as caught:
        answered((1.0, data)).end()
    assert caught.value.kind == kind


def test_a_200_that_is_no_stream() -> None:
    with pytest.raises(AnswerFailed, match="application/json") as caught:
        Answer().head(200, {"content-type": "application/json"})
    assert caught.value.kind == "bad_stream"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "the queue is full"}}', "the queue is full"),
        (b'{"error": "busy"}', "busy"),
        (b'{"detail": "no"}', "no"),
        (b"<html>\n nginx", "<html> nginx"),
        (b"x" * 10**6, "x" * DETAIL),
    ],
)
@pytest.mark.parametrize(
    ("after", "seconds"),
    [("7", 7.0), ("-1", 0.0), ("1e9", 60.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0)],
)
def test_a_refusal(body: bytes, message: str, after: str, seconds: float) -> None:
    answer = Answer(hang_up=0)
    answer.head(429, {"retry-after": after})
    answer.body(body, 1.0)
    assert not answer.enough  # its reader wants to know why
    with pytest.raises(AnswerFailed) as caught:
        answer.end()
    assert caught.value.kind == "http_429"
    assert str(caught.value) == message
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(("hang_up", "enough"), [(0, True), (1, True), (2, False)])
def test_a_reader_has_enough(hang_up: int, enough: bool) -> None:
    answer = Answer(hang_up)
    assert not answer.enough
    answer.head(200, HEADERS)
    assert answer.enough is (hang_up == 0)
    answer.body(sse(WHOLE[1]), 1.0)
    assert answer.enough is enough
    answer.body(sse(*WHOLE[2:]), 2.0)
    assert not answer.enough  # it was over before
