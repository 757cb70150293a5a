"""Taking answers apart, with the notation of most models: JSON between markers."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.answer import CallArguments, CallBegun, Part, Text, Thought
from cluster.text import block, json_block
from cluster.text.answer import DOUBTS, GAP, AnswerParser
from cluster.text.notation import Notation

JSON = Notation("<think>", "</think>", "<tool_call>", "</tool_call>")
BARE = Notation()
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

Told = list[tuple[str, ...]]


def told(parts: list[Part]) -> Told:
    """Parts without ids, neighbours joined, and each call as one."""
    out: Told = []
    for part in parts:
        match part:
            case Text(text) | Thought(text):
                kind = type(part).__name__
                assert text
                if out and out[-1][0] == kind:
                    out[-1] = (kind, out[-1][1] + text)
                else:
                    out.append((kind, text))
            case CallBegun(index, call, name):
                assert index == sum(kind == "Call" for kind, *_ in out)
                assert len(call) == 24 and int(call, 16) >= 0
                out.append(("Call", name, ""))
            case CallArguments(index, text):
                assert text
                assert index == sum(kind == "Call" for kind, *_ in out) - 1
                assert out[-1][0] == "Call"
                out[-1] = (*out[-1][:2], out[-1][2] + text)
    return out


def parsed(
    feeds: list[str],
    notation: Notation = JSON,
    *,
    cut: bool = False,
    thinking: bool = False,
    forced: bool = False,
    tools: list[dict[str, object]] = TOOLS,
) -> Told:
    parser = AnswerParser(notation, tools=tools, thinking=thinking, forced=forced)
    parts: list[Part] = []
    for text in feeds:
        fed = parser.feed(text)
        kinds = [(type(part), getattr(part, "index", 0)) for part in fed]
        assert all(a != b for a, b in pairwise(kinds)), fed
        parts += fed
    parts += parser.finish(cut=cut)
    result = told(parts)
    assert parser.called == any(kind == "Call" for kind, *_ in result)
    return result


def both(answer: str, notation: Notation = JSON, **options: bool) -> Told:
    """At once and character by character."""
    whole = parsed([answer], notation, **options)
    assert parsed(list(answer), notation, **options) == whole
    return whole


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
F: tuple[str, ...] = ("Call", "f", '{"a": 1}')


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", []),
        ("Hello", [("Text", "Hello")]),
        (" \n Hello \n", [("Text", " \n Hello \n")]),
        ("\n\n", [("Text", "\n\n")]),
        ("a < b <th", [("Text", "a < b <th")]),
        (CALL, [F]),
        ("\n" + CALL + "\n", [F]),
        ("Let me see.\n\n" + CALL, [("Text", "Let me see."), F]),
        (CALL + "\n" + CALL + CALL, [F, F, F]),
        (CALL + "\n  Done.\n", [F, ("Text", "  Done.\n")]),
        ("<think>\nHm\n\n  so\n</think>\n\nHi", [("Thought", "Hm\n\n  so"), ("Text", "Hi")]),
        ("<think>\n\n</think>\n\nHi", [("Text", "Hi")]),
        ("<think>a</think>\n" + CALL, [("Thought", "a"), F]),
        ("<think>a\n" + CALL + "b", [("Thought", "a"), F, ("Text", "b")]),
        ("<think>a\n" + CALL + "\n</think>\nb", [("Thought", "a"), F, ("Text", "b")]),
        ("a</think>b", [("Text", "ab")]),
        ("a\n<think>b</think> c", [("Text", "a"), ("Thought", "b"), ("Text", " c")]),
        ("<think>a", [("Thought", "a")]),
        ("a</tool_call>b", [("Text", "a</tool_call>b")]),
        (CALL + "</tool_call>b", [F, ("Text", "b")]),
        ("<think>a <tool_call> b</think>c", [("Thought", "a <tool_call> b"), ("Text", "c")]),
        ("use <tool_call>, then", [("Text", "use <tool_call>, then")]),
        ("<tool_call></tool_call>", [("Text", "<tool_call></tool_call>")]),
    ],
)  # fmt: skip
def test_markers(answer: str, expected: Told) -> None:
    assert both(answer) == expected


def test_an_answer_that_begins_in_a_think_block() -> None:
    assert both("\nHm\n</think>\n\nHi", thinking=True) == [("Thought", "Hm"), ("Text", "Hi")]
    assert both("<think>\nHm</think>Hi", thinking=True) == [("Thought", "Hm"), ("Text", "Hi")]
    assert both(CALL, thinking=True) == [F]
    assert both("Hm\n", thinking=True, cut=True) == [("Thought", "Hm\n")]


def test_without_tools_no_calls_are_looked_for() -> None:
    assert parsed([CALL], tools=[]) == [("Text", CALL)]
    assert parsed(["<think>a</think>" + CALL], tools=[]) == [("Thought", "a"), ("Text", CALL)]


@pytest.mark.parametrize(
    ("inner", "name", "arguments"),
    [
        ('{"arguments": {"a": [1, {"b": "}"}]}, "name": "g"}', "g", {"a": [1, {"b": "}"}]}),
        ('{"name": "f", "parameters": {"a": 1}}', "f", {"a": 1}),
        ('{"name": "f", "arguments": "{\\"a\\": \\"\\\\\\"\\"}"}', "f", {"a": '"'}),
        ('{"name": "f", "arguments": "Paris"}', "f", {"raw": "Paris"}),
        ('{"name": "f", "arguments": [1]}', "f", {"raw": [1]}),
        ('{"name": "f", "arguments": null}', "f", {}),
        ('{"name": "f"}', "f", {}),
        ('{"name": "f", "arguments": {}}', "f", {}),
        ('{ "id" : 7 , "name":"f"\n,\n"arguments"\n:\t{ }\r\n}', "f", {}),
        ('{"name":"f","arguments":{"a":-1.5e3,"b":null}}', "f", {"a": -1500.0, "b": None}),
        ('{"name":"f","arguments":{"a":true,"b":[false,0]}}', "f", {"a": True, "b": [False, 0]}),
        ('{"name": "f", "arguments": {"a": "\\u00e9\\n\\\\"}}', "f", {"a": "é\n\\"}),
        ('{"name": "a.b-c é", "arguments": {}}', "a.b-c é", {}),
        ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', "f", {"a": 1}),
        ('{"function": "f", "arguments": "{}"}', "f", {}),
        # mended
        ('{"name": "f", "arguments": {"a": 1}', "f", {"a": 1}),
        ('{"name": "f", "arguments": {"a": [1, "x"', "f", {"a": [1, "x"]}),
        ('{"name": "f", "arguments": {"a": ["x"}}', "f", {"a": ["x"]}),
        ('{"name": "f", "arguments": {"a": tru', "f", {"a": True}),
        ('{"name": "f", "arguments": {"a": 1, "b": oops', "f", {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1.', "f", {"a": 1}),
        ('{"name": "f", "arguments": oops', "f", {}),
        ('{"name": "f", "arguments": {"a": 1, "b', "f", {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1, "b": ', "f", {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1}}}}', "f", {"a": 1}),
        ('{"name": "f", "arguments": {"a": [1, 2,], }, }', "f", {"a": [1, 2]}),
        ('{"name": "f", "arguments": {"a": "x\ny\tz"}}', "f", {"a": "x\ny\tz"}),
        ('{"name": "f", "arguments": {"a": "\\d+\\u12"}}', "f", {"a": "\\d+\\u12"}),
        ('{"name": "f", "arguments": {"a": "print("hi") "}}', "f", {"a": 'print("hi") '}),
        ("{'name': 'f', 'arguments': {'a': True, 'b': None}}", "f", {"a": True, "b": None}),
        ("{'name': 'f', 'arguments': {'a': 'it\\'s \"x\"'}}", "f", {"a": 'it\'s "x"'}),
        ('{"name": "f", "arguments": {1: "a", "b": (1, 2)}}', "f", {}),
        ("{'name': 'f', 'arguments': {'a': (1, 2)}}", "f", {}),
        ("{'arguments': {'a': (1, 2)}, 'name': 'f'}", "f", {"a": [1, 2]}),
        ('{{"name": "f", "arguments": {"a": 1}}}', "f", {"a": 1}),
        ('```json\n{"name": "f", "arguments": {"a": 1}}\n```', "f", {"a": 1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [True, False])
def test_calls(inner: str, name: str, arguments: object, ended: bool) -> None:
    answer = f"<tool_call>{inner}" + "</tool_call>" * ended
    calls = [part for part in both(answer) if part[0] == "Call"]
    assert [part[1] for part in calls] == [name]
    got = json.loads(calls[0][2])
    if arguments or "(" not in inner:
        assert got == arguments


@pytest.mark.parametrize(
    "inner",
    [
        r'{"name": "f\ud83d", "arguments": {"a": "\ud83d"}}',
        r'[{"name": "f\ud83d", "arguments": {"a": "\ud83d"}}]',
        r'{"name": "f\ud83d", "arguments": "{\"a\": \"\\ud83d\"}"}',
    ],
)
def test_half_characters_in_calls_can_be_sent(inner: str) -> None:
    ((_, name, arguments),) = both(f"<tool_call>{inner}</tool_call>")
    assert (name, json.loads(arguments)) == ("f?", {"a": "\ud83d"})
    assert arguments.isascii()


def test_several_calls_in_one_block() -> None:
    inner = '{"name": "f", "arguments": {"a": 1}}'
    expected = [F, F]
    assert both(f"<tool_call>\n{inner}\n{inner}\n</tool_call>") == expected
    assert both(f"<tool_call>[{inner}, {inner}]</tool_call>") == expected


def test_a_call_without_its_end_marker_ends_where_its_json_does() -> None:
    answer = CALL.removesuffix("</tool_call>")
    assert both(answer + "Done") == [F, ("Text", "Done")]
    assert both(answer + CALL) == [F, F]
    assert both(answer + "</tool") == [F]


def test_the_end_marker_in_a_string_belongs_to_it() -> None:
    text = "x </tool_call> y </tool_call>"
    inner = json.dumps({"name": "f", "arguments": {"a": text, "b": [1]}})
    for tail in ("", "</tool_call>", "</tool_call>" + CALL):
        (_, name, arguments), *rest = both(f"<tool_call>{inner}{tail}")
        assert (name, json.loads(arguments)) == ("f", {"a": text, "b": [1]})
        assert rest == ([F] if tail.endswith(CALL) else [])
    early = '<tool_call>{"arguments": {"a": "</tool_call>"}, "name": "f"}</tool_call>'
    assert both(early) == [("Call", "f", '{"a": "</tool_call>"}')]


def test_a_string_that_lacks_its_end_ends_with_the_block() -> None:
    broken = '<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call>'
    expected = ("Call", "f", '{"a": "x}}"}')
    assert both(broken) == [expected]
    assert both(broken + "\n" + CALL) == [expected, F]
    assert both(broken + "\nDone.") == [expected, ("Text", "Done.")]


def test_a_long_string_after_an_end_marker_is_not_held_back_for_ever() -> None:
    parser = AnswerParser(JSON, tools=TOOLS)
    parser.feed('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>')
    assert parser.feed("x" * 1000) == []
    (part,) = parser.feed("x" * json_block.DOUBT)
    assert isinstance(part, CallArguments)
    assert parser.feed("y</tool_call>z")


@pytest.mark.parametrize("after", [" ", "}"])
def test_what_follows_a_call_with_a_marker_in_it_is_not_held_back_for_ever(after: str) -> None:
    answer = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}' + after * 5000
    parser = AnswerParser(JSON, tools=TOOLS)
    said = told([part for text in answer for part in parser.feed(text)])
    assert said == [("Call", "f", '{"a": "</tool_call>"}')]
    assert both(answer + "</tool_call>") == said


def test_markers_in_strings_are_read_on_from_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = []
    monkeypatch.setattr(json_block, "deepcopy", lambda call: copies.append(0) or deepcopy(call))
    said = parsed(['<tool_call>{"name": "f", "a": "</tool_call>' * 50])
    assert said == [("Call", "f", "{}")] * 50
    assert len(copies) == DOUBTS


def test_what_was_told_of_a_broken_call_stays_and_the_rest_is_text() -> None:
    answer = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": oops}}</tool_call>Done'
    (_, _, arguments), (_, text) = both(answer)
    assert json.loads(arguments) == {"a": 1}
    assert text == ', "b": oops}}Done'


@pytest.mark.parametrize(
    "inner",
    [
        "{oops}", '{"arguments": {"a": 1}}', "[1]", "[]", '{"name": 7}', '{"name": ""}', "{" * 3000,
        *('{"function": ' * deep + '{"name": "f"}' + "}" * deep for deep in (300, 900, 950)),
        *('[{"name": "f", "arguments": ' + '{"a": ' * deep + "1" + "}" * deep + "}]"
          for deep in (300, 900)),
    ],
)  # fmt: skip
def test_what_can_not_be_mended_is_text(inner: str) -> None:
    answer = f"<tool_call>{inner}</tool_call>"
    assert both(answer) == [("Text", answer)]
    assert both("a " + answer + CALL) == [("Text", "a " + answer), F]
    assert both(f"<think>a {answer}</think>b") == [("Thought", f"a {answer}"), ("Text", "b")]
    unended = f"<tool_call>{inner}"
    assert both("<think>a " + unended) == [("Thought", "a"), ("Text", unended)]


def test_an_answer_cut_off_by_a_length() -> None:
    begun = '<tool_call>{"name": "f", "arguments": {"a": "x'
    assert both(begun, cut=True) == [("Call", "f", '{"a": "x')]
    assert both('<tool_call>{"name": "f"', cut=True) in (
        [("Call", "f", "")],
        [("Text", '<tool_call>{"name": "f"')],
    )
    assert both('<tool_call>{"name": "f', cut=True) == [("Text", '<tool_call>{"name": "f')]
    assert both("<tool_call>", cut=True) == [("Text", "<tool_call>")]
    inside = begun + "</tool_call>y"
    assert both(inside, cut=True) == [("Call", "f", '{"a": "x</tool_call>y')]
    early = '<tool_call>{"arguments": {"a": 1}'
    assert both(early, cut=True) == [("Text", early)]


def test_names_and_arguments_come_as_soon_as_they_are_certain() -> None:
    parser = AnswerParser(JSON, tools=TOOLS)
    assert parser.feed('Hi <tool_call>{"name": "f"') == [Text("Hi")]
    (begun,) = parser.feed(",")
    assert isinstance(begun, CallBegun) and begun.name == "f"
    assert parser.called
    assert parser.feed(' "arguments": {') == [CallArguments(0, "{")]
    assert parser.feed('"ci') == []
    assert parser.feed('ty": "Par') == [CallArguments(0, '"city": "Par')]
    assert parser.feed("is") == [CallArguments(0, "is")]
    assert parser.feed('", "n": 1') == [CallArguments(0, '"')]
    assert parser.feed("}") == [CallArguments(0, ', "n": 1}')]
    assert parser.feed("}</tool_call> ") == []
    assert parser.finish() == []


def test_only_what_may_be_a_marker_is_held_back() -> None:
    parser = AnswerParser(JSON)
    assert parser.feed("a <") == [Text("a")]
    assert parser.feed("b") == [Text(" <b")]
    assert parser.feed("<thin") == []
    assert parser.feed("g>") == [Text("<thing>")]
    assert parser.feed("\n") == []
    assert parser.feed("c<think>") == [Text("\nc")]
    assert parser.feed("d") == [Thought("d")]
    assert parser.finish() == []
    assert parser.finish() == []


def test_white_space_without_end_is_told() -> None:
    parser = AnswerParser(JSON)
    assert told(parser.feed("a" + "\n" * 5 * GAP)) == [("Text", "a" + "\n" * 4 * GAP)]
    assert told(parser.finish()) == [("Text", "\n" * GAP)]


def test_a_forced_call_is_bare_or_between_markers() -> None:
    bare = '\n{"name": "f", "arguments": {"a": 1}}\n'
    for notation in (BARE, JSON, Notation("<think>", "</think>")):
        assert both(bare, notation, forced=True) == [F]
    assert both(CALL, forced=True) == [F]
    thoughtful = Notation("<think>", "</think>")
    assert both("<think>a</think>" + bare, thoughtful, forced=True) == [("Thought", "a"), F]
    assert both("a</think>" + bare, thoughtful, forced=True, thinking=True) == [("Thought", "a"), F]
    assert both(bare, thoughtful, forced=True, thinking=True) == [F]
    assert both("Hello " + bare, BARE, forced=True) == [("Text", "Hello " + bare)]
    assert both(bare, BARE) == [("Text", bare)]
    half = '{"name": "f", "arguments": {"a": 1'
    assert both(half, BARE, forced=True, cut=True)[0][:2] == ("Call", "f")
    assert both(half, BARE, forced=True) == [F]
    assert both("{oops", BARE, forced=True) == [("Text", "{oops")]
    assert both(" ", BARE, forced=True) == [("Text", " ")]


def test_layout_is_dropped_and_markers_of_several_words_are_found() -> None:
    notation = Notation(
        "<|open|>think<|sep|>", "<|close|>think<|sep|>",
        layout=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    )  # fmt: skip
    answer = (
        "<|open|>think<|sep|>a<|close|>think<|sep|><|open|>response<|sep|>b<|close|>response<|sep|>"
    )
    assert both(answer, notation) == [("Thought", "a"), ("Text", "b")]


def test_a_block_without_end_becomes_text() -> None:
    parser = AnswerParser(JSON, tools=TOOLS)
    size = 1 << 16
    parts = parser.feed("<tool_call>[")
    for _ in range(block.LONGEST // size + 1):
        parts += parser.feed("x" * size)
    assert parts  # told before the end
    parts += parser.finish()
    assert sum(len(text) for _, text in told(parts)) == 12 + size * (block.LONGEST // size + 1)


WORDS = st.sampled_from(
    [
        *["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "</", "\n", " ", "é", "text"],
        *['{"name": "f", "arguments": ', '{"a": "', '"}', '{"a": [1, tr', "ue,", '"name"', CALL],
        *[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "'",
            "\\",
            "-1",
            "null",
            "\\u00e9",
            '"arguments"',
            '"g"',
        ],
    ]
)
ANSWERS = st.lists(WORDS, max_size=25).map("".join)


@given(ANSWERS, st.randoms(use_true_random=False), st.booleans(), st.booleans(), st.booleans())
def test_however_an_answer_is_split_its_parts_are_the_same(
    answer: str, chance: random.Random, thinking: bool, forced: bool, cut: bool
) -> None:
    feeds: list[str] = []
    place = 0
    while place < len(answer):
        size = chance.choice([1, 2, 3, 5, 8, 20])
        feeds.append(answer[place : place + size])
        place += size
    whole = parsed([answer], thinking=thinking, forced=forced, cut=cut)
    assert parsed(feeds, thinking=thinking, forced=forced, cut=cut) == whole
    for part in whole:
        if part[0] == "Call" and not cut:
            assert isinstance(json.loads(part[2]), dict)


GARBAGE = st.lists(
    st.one_of(
        st.sampled_from(
            ["<think>", "</think>", "<tool_call>", "<tool_call>", " \n", "{", "[", "}"]
        ),
        st.sampled_from(["<tool", "</", "text", "'", '"', ":", ",", "\\", "\x00", "é"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    ),
    max_size=25,
).map("".join)


@given(GARBAGE, st.booleans(), st.booleans(), st.booleans())
def test_of_what_is_no_call_only_markers_and_space_are_lost(
    answer: str, thinking: bool, forced: bool, cut: bool
) -> None:
    def rest(text: str) -> str:
        for marker in ("<think>", "</think>", "\n", " ", "\t", "\r"):
            text = text.replace(marker, "")
        return text

    shown = parsed([answer], thinking=thinking, forced=forced, cut=cut)
    assert rest("".join(text for _, text in shown)) == rest(answer)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_garbage_around_a_call_and_in_its_strings(before: str, inside: str, after: str) -> None:
    inner = json.dumps({"name": "f", "arguments": {"a": inside}}, ensure_ascii=False)
    result = parsed([before + "<tool_call>", inner, "</tool_call>" + after])
    (call,) = [part for part in result if part[0] == "Call"]
    assert json.loads(call[2]) == {"a": inside}
    said = "".join(part[1] for part in result if part[0] == "Text")
    assert "".join(said.split()) == "".join((before + after).split())
