"""The notations of real models, with mlx-lm's own parsers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

import cluster.demo
from cluster.core.answer import CallArguments, Part
from cluster.text import block
from cluster.text.answer import AnswerParser
from cluster.text.grammar import CallSyntax
from cluster.text.notation import Notation
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import TEMPLATE, make_folder
from tests.unit.text.test_answer import Told, parsed, told

TOOLS: list[dict[str, object]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in ("get_weather", "get_time")
]
WEATHER = {"city": "Zürich", "days": 3}


def notation(name: str) -> Notation:
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    plain = name == "json_tools"
    return Notation(
        "<think>",
        "</think>",
        module.tool_call_start,
        module.tool_call_end,
        json_calls=plain,
        parse=None if plain else module.parse_tool_call,
    )


ANSWERS = {
    "json_tools": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}'
    "\n</tool_call>",
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "mistral": '[TOOL_CALLS]get_weather[ARGS]{"city": "Zürich", "days": 3}',
    "pythonic": '<|tool_call_start|>[get_weather(city="Zürich", days=3)]<|tool_call_end|>',
    "glm47": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Zürich</arg_value>\n"
    "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Zürich'
    '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city": "Zürich", "days": 3}<|tool_call_end|>'
    "<|tool_calls_section_end|>",
    "kimi_k3": '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
    '<|open|>argument key="city" type="string"<|sep|>Zürich<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>'
    "<|close|>call<|sep|><|close|>tools<|sep|>",
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Zürich<|"|>,days:3}<tool_call|>',
    "function_gemma": "<start_function_call>call:get_weather{city:<escape>Zürich<escape>,days:3}"
    "<end_function_call>",
    "longcat": "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>"
    "<longcat_arg_value>Zürich</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>"
    "<longcat_arg_value>3</longcat_arg_value></longcat_tool_call>",
    "minicpm5": '<function name="get_weather"><param name="city">Zürich</param>'
    '<param name="days">3</param></function>',
    "muse_spark": '<atem:function_calls><atem:invoke name="get_weather">'
    '<atem:parameter name="city">Zürich</atem:parameter>'
    '<atem:parameter name="days">3</atem:parameter></atem:invoke>'
    "</atem:function_calls>",
}  # fmt: skip


def run(name: str, answer: str, **options: bool) -> Told:
    whole = parsed([answer], notation(name), tools=TOOLS, **options)
    assert parsed(list(answer), notation(name), tools=TOOLS, **options) == whole
    return whole


@pytest.mark.parametrize("name", ANSWERS)
def test_a_call_of_each_notation(name: str) -> None:
    for lead in ("", "I look.\n\n", "<think>Hm", "<think>Hm</think>\n"):
        *_, (kind, called, arguments) = run(name, lead + ANSWERS[name])
        assert (kind, called, json.loads(arguments)) == ("Call", "get_weather", WEATHER)
        assert "\\u" not in arguments


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"mistral"}))
def test_several_calls_and_text_after_them(name: str) -> None:
    result = run(name, ANSWERS[name] + "\n" + ANSWERS[name] + "\nDone.")
    assert [part[:2] for part in result] == [("Call", "get_weather")] * 2 + [("Text", "Done.")]


def test_several_calls_in_one_block() -> None:
    one, two = '[get_weather(city="a")', ' get_time(city="b")]'
    result = run("pythonic", f"<|tool_call_start|>{one},{two}<|tool_call_end|>")
    assert [part[1] for part in result] == ["get_weather", "get_time"]
    result = run("mistral", 'Hi[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g"}]')
    assert [part[1] for part in result] == ["Hi", "f", "g"]
    result = run("mistral", "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}")
    assert [part[1] for part in result] == ["f", "g"]


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"json_tools"}))
def test_a_call_that_is_cut_off_is_text(name: str) -> None:
    answer = ANSWERS[name]
    end = notation(name).call_end
    half = answer[: -len(end) - 4] if end else answer[:-4]
    assert run(name, half, cut=True) == [("Text", half)]


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"mistral", "json_tools"}))
def test_a_call_that_lacks_its_end_marker(name: str) -> None:
    answer = ANSWERS[name].removesuffix(notation(name).call_end)
    (part,) = run(name, answer)
    assert part[:2] == ("Call", "get_weather")


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"glm47", "minicpm5"}))
def test_what_a_parser_refuses_is_text(name: str) -> None:
    call = notation(name)
    answer = f"{call.call_start}(oops{call.call_end}"
    assert run(name, answer) == [("Text", answer)]
    thought = f"<think>say {call.call_start} to call</think>Hi{call.call_end}"
    kinds = [part[0] for part in run(name, thought)]
    assert kinds == ["Thought", "Text"]


def test_a_parser_that_finds_calls_in_anything_needs_a_known_name() -> None:
    assert run("glm47", "the <tool_call> marker") == [("Text", "the <tool_call> marker")]


@pytest.mark.parametrize(
    "value", [None, 7, [], [{}], {"name": ""}, {"name": "f", "arguments": 1e999}]
)
def test_a_parser_that_gives_nonsense(value: object) -> None:
    odd = Notation(
        call_start="<c>", call_end="</c>", json_calls=False, parse=lambda text, tools: value
    )
    assert parsed(["<c>x</c>"], odd) == [("Text", "<c>x</c>")]


@pytest.mark.parametrize("kind", [KeyError, RecursionError, OverflowError, SyntaxError])
def test_a_parser_that_fails(kind: type[Exception]) -> None:
    def parse(text: str, tools: object) -> object:
        raise kind("oops")

    odd = Notation(call_start="<c>", call_end="</c>", json_calls=False, parse=parse)
    assert parsed(["<c>x</c>"], odd) == [("Text", "<c>x</c>")]


def test_a_block_that_is_too_long_is_text() -> None:
    text = "x" * (block.LONGEST + 1)
    assert parsed(["<tool_call>", text, "</tool_call>"], notation("qwen3_coder")) == [
        ("Text", f"<tool_call>{text}</tool_call>")
    ]


def test_the_demo_models_notation() -> None:
    demo = Tokenizer.load(cluster.demo.folder())
    found = demo.notation
    assert (found.think_start, found.think_end) == ("<think>", "</think>")
    assert (found.call_start, found.call_end) == ("<tool_call>", "</tool_call>")
    assert found.json_calls
    assert sorted(found.marker_ids.values()) == [
        "</think>", "</tool_call>", "<think>", "<tool_call>",
    ]  # fmt: skip
    assert hash(found) == hash(demo.notation)


def test_a_model_without_any(tokenizer: Tokenizer) -> None:
    assert tokenizer.notation == Notation()
    assert not tokenizer.thinks(tokenizer.encode("<think>"))


KIMI_K2 = [
    "calls_section_begin",
    "calls_section_end",
    "call_begin",
    "call_argument_begin",
    "call_end",
]
KIMI_K3 = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"]
GEMMA4 = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>']
SECTIONS = (
    "<|open|>think<|sep|>a<|close|>think<|sep|><|open|>response<|sep|>b<|close|>response<|sep|>"
)
SAID: Told = [("Text", "b")]
THOUGHT: Told = [("Thought", "a"), ("Text", "b")]


@pytest.mark.parametrize(
    ("mark", "special", "name", "before", "expected"),
    [
        (ANSWERS["kimi_k2"][:28], [f"<|tool_{part}|>" for part in KIMI_K2], "kimi_k2", "b", SAID),
        ("", KIMI_K3, "kimi_k3", SECTIONS, THOUGHT),
        ("<|tool_call><tool_call|>", GEMMA4, "gemma4", "<|channel>thought\na<channel|>b", THOUGHT),
        ("[TOOL_CALLS]", ["[TOOL_CALLS]", "[ARGS]"], "mistral", "b", SAID),
    ],
)
def test_markers_that_are_special_tokens_are_shown_whole(
    tmp_path: Path, mark: str, special: list[str], name: str, before: str, expected: Told
) -> None:
    template = "{#" + mark + "#}" + TEMPLATE
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=template, special=special))
    assert not tokenizer.notation.json_calls
    assert tokenizer.call_syntax == CallSyntax()
    text = before + ANSWERS[name]
    ids = tokenizer.encode(text)
    stream, hidden = TextStream(tokenizer, markers=True), TextStream(tokenizer)
    shown = "".join([*map(stream.push, ids), stream.finish()])
    assert shown == text
    unmarked = "".join([*map(hidden.push, ids), hidden.finish()])
    assert not any(token in unmarked for token in special)
    *rest, (_, called, arguments) = parsed([shown], tokenizer.notation, tools=TOOLS)
    assert (called, json.loads(arguments)) == ("get_weather", WEATHER)
    assert rest == expected


def test_the_end_of_an_answer_is_no_marker() -> None:
    demo = Tokenizer.load(cluster.demo.folder())
    stream = TextStream(demo, markers=True)
    ids = demo.encode("<|im_start|><think>a</think>b<tool_response><|im_end|>")
    assert "".join(map(stream.push, ids)) + stream.finish() == "<think>a</think>b"


def test_thinking_prompts() -> None:
    demo = Tokenizer.load(cluster.demo.folder())
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
    for content, opening, thinks in [
        ("a", "", False),
        ("a", "<think>\n", True),
        ("a", "<think>\n\n</think>\n\n", False),
        ("what is <think>?", "", False),
        ("a", "<think>" + "x " * 50, True),
        ("a", "<think>" + "\n\t" * 5000, False),  # too far away
    ]:
        ids = demo.encode(turn.format(content, opening))
        assert demo.thinks(ids) is thinks, (content, opening[:20])
    assert not demo.thinks(())
    assert demo.thinks(demo.encode("<think>"))


def test_thinking_prompts_whose_marker_is_several_tokens(tmp_path: Path) -> None:
    special = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"]
    tokenizer = Tokenizer.load(make_folder(tmp_path, special=special))
    assert tokenizer.thinks(tokenizer.encode("<|end|>\n<|start|>assistant\n<|open|>think<|sep|>a"))
    assert not tokenizer.thinks(tokenizer.encode("<|open|>think<|sep|>a<|close|>think<|sep|>b"))


def test_a_call_of_the_demo_model_from_ids() -> None:
    demo = Tokenizer.load(cluster.demo.folder())
    parser = AnswerParser(demo.notation, tools=TOOLS, thinking=False)
    stream = TextStream(demo, markers=True)
    parts: list[Part] = []
    for token in demo.encode("<think>\nHm\n</think>\n\n" + ANSWERS["json_tools"]):
        parts += parser.feed(stream.push(token))
    parts += parser.feed(stream.finish())
    thought, (_, name, arguments) = told([*parts, *parser.finish()])
    assert thought == ("Thought", "Hm")
    assert (name, json.loads(arguments)) == ("get_weather", WEATHER)
    assert sum(isinstance(part, CallArguments) for part in parts) > 5
