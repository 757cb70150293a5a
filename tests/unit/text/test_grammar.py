from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster import demo
from cluster.core.errors import GrammarRefused
from cluster.text import grammar
from cluster.text.grammar import CallSyntax, refusals
from cluster.text.tokenizer import Tokenizer

ENDLESS = "start: A\nA: " + " & ".join(f"/(a|b)*a(a|b){{{n}}}/" for n in range(20, 60))
"""llguidance does not come back from this one."""


def refusal(text: str, specials: tuple[str, ...] = ()) -> str:
    (reason,) = refusals([text], specials)
    return reason


@pytest.mark.parametrize(
    "text",
    [
        grammar.json_object(),
        grammar.json_schema({}),
        grammar.json_schema({"type": "string", "format": "date-time"}),
        grammar.regex(r"(a|b)/\d+"),
        grammar.regex("日本😀"),
        grammar.choice(["a", 'b"\\\n', "", "日😀"]),
        grammar.lark('start: "a" | "b" start'),
        grammar.lark('root ::= "a" | "b" root'),
        grammar.tool_call({"f": {}, 'g"é': {"type": "object"}}, CallSyntax(), ()),
        grammar.tool_call({"f": {}}, CallSyntax("<call>", "</call>"), ()),
    ],
)
def test_what_compiles(text: str) -> None:
    assert refusal(text) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (grammar.json_schema({"not": {"type": "string"}}), 'Unimplemented keys: ["not"]'),
        (grammar.json_schema({"type": "string", "pattern": "(?=a)b"}), "regex parse error"),
        (grammar.json_schema({"$ref": "http://elsewhere/x"}), "not present"),
        (grammar.json_schema({"$ref": "#"}), "no text satisfies it"),
        (grammar.json_schema({"type": "integer", "minimum": 3, "maximum": 2}), "Unsatisfiable"),
        (grammar.json_schema({"const": "\ud800"}), "hex escape"),
        (grammar.regex("["), "invalid regex"),
        (grammar.regex(r"\bfoo"), "lookarounds"),
        ("start: missing", "missing"),
        ('start: "\ud800"', "ud800"),
        ("", "Empty grammar"),
        (grammar.regex("a" * 70_000), "has 70009 characters, and at most 65536"),
        (grammar.tool_call({"f": {}}, CallSyntax("<c>", "</c>"), ("<c>",)), "special token"),
    ],
)
def test_what_does_not_compile_is_told_in_one_line(text: str, reason: str) -> None:
    told = refusal(text)
    assert reason in told
    assert "\n" not in told and len(told) <= grammar.REASON


def test_special_tokens_are_named() -> None:
    text = grammar.tool_call({"f": {}}, CallSyntax("<c>", "</c>"), ("<c>", "</c>"))
    assert text.startswith('start: <c> "\\n" (call0) "\\n" </c>\n')
    assert refusal(text, ("<c>", "</c>")) == ""


def test_several_at_once() -> None:
    reasons = refusals([grammar.regex("a"), grammar.regex("["), "x" * 70_000, grammar.regex("b")])
    assert [bool(reason) for reason in reasons] == [False, True, True, False]


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "TRIAL_SECONDS", 1.0)
    begun = time.monotonic()
    assert refusal(ENDLESS) == "it takes more than 1 s to compile"
    assert time.monotonic() - begun < 5


def test_what_was_tried_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    text = grammar.regex("remembered")
    assert refusal(text) == ""
    monkeypatch.setattr(grammar.subprocess, "run", None)
    assert refusal(text) == ""


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (reason,) = refusals([grammar.regex("a")], (), tmp_path / "tokenizer.json")
    assert "can't read this model's tokenizer" in reason


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(GrammarRefused):
        grammar.regex("\ud800")


def test_the_demo_model_calls_tools_in_its_own_words() -> None:
    tokenizer = Tokenizer.load(demo.folder())
    assert tokenizer.call_syntax == CallSyntax("<tool_call>", "</tool_call>")
    assert {"<tool_call>", "</tool_call>", "<|im_end|>"} <= set(tokenizer.special_names)
    text = grammar.tool_call({"f": {}}, tokenizer.call_syntax, tokenizer.special_names)
    assert tokenizer.grammar_refusals([text, "start: missing"])[0] == ""
    assert "missing" in tokenizer.grammar_refusals([text, "start: missing"])[1]


def test_other_models_call_tools_in_plain_json(tokenizer: Tokenizer) -> None:
    assert tokenizer.call_syntax == CallSyntax()
    assert tokenizer.special_names == ("<|pad|>", "<|start|>", "<|end|>", "<|stop|>")
    assert tokenizer.grammar_refusals([grammar.json_object()]) == ("",)
