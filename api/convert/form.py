"""The form that an answer must have, as a grammar; and what came of it. Pure but for the
compiling of grammars.

A JSON schema comes from programs and may use more than a grammar can say: the answer is then
not constrained, and a header says so. A regex, a choice or a grammar is written by hand for
this purpose: what is wrong with it is said at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from api.ask import Wish
from cluster.core.errors import GrammarRefused, Interrupted, InvalidRequest
from cluster.core.request import Finish
from cluster.text import grammar
from cluster.text.json_scan import too_deep
from cluster.text.tokenizer import Tokenizer

CHOICES = 1000
LONGEST_WARNING = 500


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The form of one request's answer."""

    grammar: str = ""
    """Empty for any text."""
    json: bool = False
    """A complete answer is one JSON value."""
    call: bool = False
    """The answer is a call of one of `tools`."""
    warning: str = ""
    """For the header X-Tandem-Warning: what was asked for and is not done; printable ASCII."""

    @property
    def constrained(self) -> bool:
        """Only some answers are possible."""
        return bool(self.grammar)

    @property
    def headers(self) -> dict[str, str]:
        """What is told beside the answer."""
        return {"X-Tandem-Warning": self.warning} if self.warning else {}


TEXT = AnswerFormat()


def to_format(wish: Wish | None, tokenizer: Tokenizer) -> AnswerFormat:
    """What the answer must be like. Compiles grammars, which takes a tenth of a second or more.

    Raises InvalidRequest for a wish that makes no sense, and GrammarRefused, which names its
    field, for a regex, choice or grammar that can't be compiled.
    """
    if wish is None:
        return TEXT
    schema = wish.kind in ("json", "json_object")
    try:
        text = _grammar(wish)
        (refusal,) = tokenizer.grammar_refusals([text])
    except GrammarRefused as error:
        text, refusal = "", str(error)
    if not refusal:
        return AnswerFormat(text, json=schema)
    if not schema:
        raise GrammarRefused(f"{wish.param}: {refusal}", param=wish.param)
    return AnswerFormat(warning=warning(f"{wish.param} is not enforced: {refusal}"))


def _grammar(wish: Wish) -> str:
    """Raises InvalidRequest for a value of the wrong type, GrammarRefused for a wrong one."""
    match wish.kind:
        case "json_object":
            return grammar.json_object()
        case "json":
            return grammar.json_schema(_schema(wish))
        case "regex":
            return grammar.regex(_string(wish.value, wish.param))
        case "choice":
            return grammar.choice(_choices(wish))
        case _:
            return grammar.lark(_string(wish.value, wish.param))


def _schema(wish: Wish) -> dict[str, Any]:
    value = wish.value
    if isinstance(value, str):  # as vLLM takes it
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{wish.param}: {error}", param=wish.param) from error
        if too_deep(value):
            raise InvalidRequest(f"{wish.param}: is nested too deeply", param=wish.param)
    return as_object(value, wish.param)


def _choices(wish: Wish) -> list[str]:
    value = wish.value
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not strings or not 0 < len(value) <= CHOICES:
        raise InvalidRequest(
            f"{wish.param}: should be a list of 1 to {CHOICES} strings", param=wish.param
        )
    return list(value)


def as_object(value: Any, param: str) -> dict[str, Any]:
    """`value` itself; raises InvalidRequest when it is no object."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: should be an object", param=param)
    return value


def _string(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{param}: should be a string, not empty", param=param)
    return value


def warning(text: str) -> str:
    """`text` as the value of a header: one line of printable ASCII."""
    line = " ".join(text.split())[:LONGEST_WARNING]
    return "".join(char if " " <= char <= "~" else "?" for char in line)


def check_answer(form: AnswerFormat, text: str, finish: Finish, *, stops: bool) -> None:
    """Raise Interrupted when a JSON answer that ended by itself is none: llguidance gives up on
    a grammar that turns out too ambiguous, and the engine then ends the answer.

    `stops`: a stop string may have cut it, as was asked for.
    """
    if not form.json or finish is not Finish.STOP or stops:
        return
    try:
        json.loads(text)
    except RecursionError:
        return  # too deep to be read here; nothing says that it is not whole
    except ValueError as error:
        raise Interrupted(
            "the answer is incomplete: its schema became too ambiguous to follow"
        ) from error
