"""Rendering conversations with tools, reasoning, and what the model itself has sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cluster.demo
from cluster.core.errors import InvalidRequest
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import TEMPLATE, make_folder

DEMO = Tokenizer.load(cluster.demo.folder())
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SAMPLED = '<think>\nHm\n</think>\n\n<tool_call>\n{"arguments":{"a":  1}, "name":"f"}\n</tool_call>'
CALLING = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "Hm",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    ],
}
ASKED = [{"role": "user", "content": "What?"}]
RESULT = {
    "role": "tool",
    "content": [{"type": "text", "text": "42"}],
    "tool_call_id": "c1",
    "name": "f",
}
TURNS = [*ASKED, CALLING, RESULT]


def strings(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with arguments as JSON."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return messages


def test_calls_reasoning_and_results_reach_the_template() -> None:
    text = (
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\n"
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert DEMO.render(TURNS) == DEMO.encode(text)


def test_what_was_sampled_goes_back_as_it_was() -> None:
    prompt = DEMO.render(ASKED, tools=TOOLS)
    sampled = DEMO.encode(SAMPLED[:44]) + DEMO.encode(SAMPLED[44:])
    second = DEMO.render(TURNS, tools=TOOLS, spoken={1: sampled})
    assert second[: len(prompt) + len(sampled)] == prompt + sampled
    end = DEMO.encode("<|im_end|>\n<|im_start|>user\n<tool_response>\n42")
    assert second[len(prompt) + len(sampled) :][: len(end)] == end
    assert second != DEMO.render(TURNS, tools=TOOLS)

    again = DEMO.encode("It is  42.")
    turns = [*TURNS, {"role": "assistant", "content": "It is 42."}, *ASKED]
    third = DEMO.render(turns, tools=TOOLS, spoken={3: again, 1: sampled})
    assert third[: len(second) + len(again)] == second + again


def test_spoken_messages_that_are_none_are_passed_over() -> None:
    for spoken in ({0: (5,)}, {2: (5,)}, {7: (5,)}, {-2: (5,)}):
        assert DEMO.render(TURNS, spoken=spoken) == DEMO.render(TURNS)


def test_arguments_are_mappings_for_the_template(tmp_path: Path) -> None:
    template = (
        "{%- for m in messages -%}{%- for c in m.tool_calls or [] -%}"
        "{%- for key, value in c.function.arguments|items -%}{{ key }}={{ value }};{%- endfor -%}"
        "{%- endfor -%}{%- endfor -%}"
    )
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=template))
    assert tokenizer.decode(tokenizer.render(TURNS)) == "a=1;"
    before = json.dumps(strings(TURNS))
    messages = strings(TURNS)
    assert tokenizer.decode(tokenizer.render(messages)) == "a=1;"
    assert json.dumps(messages) == before
    messages[1]["tool_calls"][0]["function"]["arguments"] = ""
    assert tokenizer.render(messages) == ()
    messages[1]["tool_calls"][0]["function"]["arguments"] = "{oops"
    with pytest.raises(InvalidRequest):
        tokenizer.render(messages)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("+ m.content +", "+ m.content + m.content +"),
        TEMPLATE.replace("+ m.content +", "+ m.content|upper +"),
        TEMPLATE.replace("'tool'", "").replace(
            "{%- for m in messages -%}",
            "{%- for m in messages -%}{%- if 'spoken' in m.content -%}"
            "{{ raise_exception('no') }}{%- endif -%}",
        ),
        TEMPLATE.replace("{%- for m in messages -%}", "{%- for m in messages -%}{{ m.odd + 1 }}"),
    ],
)
def test_templates_without_a_place_for_it(tmp_path: Path, template: str) -> None:
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=template))
    turns = [*ASKED, {"role": "assistant", "content": "a", "odd": 1}, *ASKED]
    turns = [{"odd": 1, **turn} for turn in turns]
    assert tokenizer.render(turns, spoken={1: (5, 6)}) == tokenizer.render(turns)


def thoughtful(tmp_path: Path) -> Tokenizer:
    """A model whose prompts open a think block, which its history leaves out."""
    opening = "'<|start|>assistant\\n' + ('' if enable_thinking is false else '<think>\\n')"
    template = TEMPLATE.replace("'<|start|>assistant\\n'", opening)
    special = ["<think>", "</think>"]
    return Tokenizer.load(make_folder(tmp_path, template=template, special=special))


def test_an_opening_that_history_leaves_out_is_put_back(tmp_path: Path) -> None:
    tokenizer = thoughtful(tmp_path)
    prompt = tokenizer.render(ASKED)
    assert tokenizer.thinks(prompt)
    sampled = tokenizer.encode("Hm</think>Hi")
    turns = [*ASKED, {"role": "assistant", "content": "Hi"}, *ASKED]
    second = tokenizer.render(turns, spoken={1: sampled})
    assert second[: len(prompt) + len(sampled)] == prompt + sampled
    assert second[len(prompt) + len(sampled)] == 2


def test_whether_to_think_is_told_to_the_template(tmp_path: Path) -> None:
    tokenizer = thoughtful(tmp_path)
    assert tokenizer.thinks(tokenizer.render(ASKED, thinking=True))
    assert not tokenizer.thinks(tokenizer.render(ASKED, thinking=False))
    assert DEMO.render(ASKED, thinking=False) == DEMO.render(ASKED)


def test_a_template_that_wants_short_ids_of_calls_gets_them(tmp_path: Path) -> None:
    template = (
        "{%- for m in messages -%}{%- for c in m.tool_calls or [] -%}"
        "{%- if c.id|length != 9 -%}{{ raise_exception('9, please') }}{%- endif -%}{{ c.id }}="
        "{%- endfor -%}{{ m.tool_call_id }}{%- endfor -%}"
    )
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=template))
    one, other = tokenizer.decode(tokenizer.render(TURNS)).split("=")
    assert one == other
    assert len(one) == 9


def said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_a_template_that_wants_turns_gets_them(tmp_path: Path) -> None:
    """Claude Code has a system message after the user's first; Codex and opencode have two
    users' messages in a row. Many templates refuse both."""
    strict = TEMPLATE.replace(
        "{%- for m in messages -%}",
        "{%- for m in messages -%}{%- if loop.previtem is defined and "
        "loop.previtem.role == m.role -%}{{ raise_exception('take turns') }}{%- endif -%}",
    )
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=strict))
    asked = [("system", "a"), ("system", "b"), ("user", "c"), ("system", "d"), ("user", "")]
    first = tokenizer.render(said(*asked))
    assert first == tokenizer.render(said(("system", "a\n\nb"), ("user", "c\n\nd")))
    turns = said(*asked, ("assistant", "e"), ("user", "f"))
    second = tokenizer.render(turns, spoken={5: (5, 6), 9: (7,)})
    assert second[: len(first) + 2] == (*first, 5, 6)


def test_a_template_that_takes_all_gets_the_messages_as_they_are() -> None:
    text = DEMO.decode(DEMO.render(said(("user", "a"), ("system", "b"), ("user", "c"))))
    assert [text.count(role) for role in ("user\n", "system\n")] == [2, 1]
