"""What an answer must conform to, written as llguidance takes it.

A grammar is a string: llguidance's own JSON, or a Lark grammar in llguidance's dialect
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). Only `refusals` says
whether it makes sense.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llguidance import grammar_from, regex_to_lark

from cluster.core.errors import GrammarRefused

LONGEST = 64 << 10
"""Characters of a grammar."""
TRIAL_SECONDS = 5.0
"""Longest time to compile one; most take a few milliseconds, large ones a second."""
REASON = 300
"""Characters of a reason that are passed on."""

_LAYOUT = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
"""JSON on one line, with or without a space after a colon or comma, as models write either.
llguidance's own default, any amount of whitespace, lets a model that is unsure write it for
ever."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a model writes a tool call: markers around {"name": ..., "arguments": ...}."""

    begin: str = ""
    end: str = ""


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def json_schema(schema: Mapping[str, Any]) -> str:
    """What satisfies a JSON schema; the order of an object's properties is the schema's.

    Raises GrammarRefused when it is nested as deeply as Python can't write.
    """
    return f'{{"grammars": [{{"json_schema": {_laid_out(schema)}}}]}}'


def regex(pattern: str) -> str:
    r"""What a regular expression matches as a whole; without look-around. \d is 0 to 9.

    Raises GrammarRefused for half a surrogate pair.
    """
    try:
        return f"start: /{regex_to_lark(pattern, 'd')}/"
    except ValueError as error:
        raise GrammarRefused(_short(str(error))) from error


def choice(texts: Sequence[str]) -> str:
    """One of some texts."""
    return "start: " + " | ".join(map(_quoted, texts))


def lark(text: str) -> str:
    """What a Lark or GBNF grammar derives. Raises GrammarRefused when GBNF can't be converted."""
    try:
        return grammar_from("grammar", text)
    except ValueError as error:
        raise GrammarRefused(_short(str(error))) from error


def tool_call(
    parameters: Mapping[str, Mapping[str, Any]], syntax: CallSyntax, specials: Sequence[str]
) -> str:
    """One call of one of the tools whose names and JSON schemas are `parameters`, at least one.

    `specials` are the names of the tokenizer's special tokens, which a grammar names in another
    way than text.
    """
    calls = [f"call{i}" for i in range(len(parameters))]
    begin = f"{_marker(syntax.begin, specials)} {_quoted(chr(10))} " if syntax.begin else ""
    end = f" {_quoted(chr(10))} {_marker(syntax.end, specials)}" if syntax.end else ""
    lines = [f"start: {begin}({' | '.join(calls)}){end}"]
    for i, (name, schema) in enumerate(parameters.items()):
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
        lines.append(f"call{i}: {_quoted(head)} arguments{i} {_quoted('}')}")
        lines.append(f"arguments{i}: %json {_laid_out(schema)}")
    return "\n".join(lines)


def refusals(
    grammars: Sequence[str], specials: Sequence[str] = (), file: Path | None = None
) -> tuple[str, ...]:
    """Why each of `grammars` can't be used; empty for one that can.

    llguidance can't compile it, no text satisfies it, or it is too large or takes too long (then
    all that were small enough are refused, as none was tried alone). With a `file`, the model's
    tokenizer.json, only that llguidance can read it is tried. Blocks for a tenth of a second and
    more; what was tried lately is remembered.
    """
    small = tuple(grammar for grammar in grammars if len(grammar) <= LONGEST)
    tried = dict(zip(small, _tried(small, tuple(specials)), strict=True))
    if file is not None:
        unreadable = _tried(("start: /a/",), (), file)[0]
        tried = {grammar: unreadable or reason for grammar, reason in tried.items()}
    large = "it has {} characters, and at most {} are taken"
    return tuple(tried.get(text, large.format(len(text), LONGEST)) for text in grammars)


@lru_cache(maxsize=64)
def _tried(
    grammars: tuple[str, ...], specials: tuple[str, ...], file: Path | None = None
) -> tuple[str, ...]:
    command = [sys.executable, "-m", "cluster.text.grammar_trial"]
    asked = json.dumps([grammars, specials, str(file) if file else ""])
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return (f"it takes more than {TRIAL_SECONDS:.0f} s to compile",) * len(grammars)
    if done.returncode != 0:
        return ("llguidance fails to compile it",) * len(grammars)
    return tuple(map(_short, json.loads(done.stdout)))


def _short(reason: str) -> str:
    """One line of what may be many, with the client's own text in them."""
    lines = reason.strip().splitlines()
    return lines[0][:REASON] if lines else ""


def _laid_out(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps({**schema, "x-guidance": _LAYOUT})
    except RecursionError as error:
        raise GrammarRefused("the schema is nested too deeply") from error


def _marker(marker: str, specials: Sequence[str]) -> str:
    """A marker as Lark: a special token, whose name must be in angle brackets, or text."""
    return marker if marker in specials else _quoted(marker)


def _quoted(text: str) -> str:
    return json.dumps(text)
