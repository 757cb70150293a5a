"""What OpenAI's clients say of the form of an answer, as a grammar; and what came of it.

    response_format                        OpenAI's own
    structured_outputs: {json: ...}        vLLM's, with regex, choice, grammar and json_object
    guided_json, guided_regex, ...         vLLM's before that

A JSON schema comes from programs and may use more than a grammar can say: the answer is then
not constrained, and a header says so. A regex, a choice or a grammar is written by hand for
this purpose: what is wrong with it is said at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from api.convert.fields import LONGEST
from api.schema.openai_chat import ChatRequest
from cluster.core.errors import GrammarRefused, Interrupted, InvalidRequest
from cluster.core.request import Finish
from cluster.text import grammar
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
    tools: tuple[dict[str, Any], ...] = ()
    """What the prompt tells the model of, as the client wrote them."""
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """One of the fields above, with a value."""

    param: str
    kind: str
    """"json", "json_object", "regex", "choice" or "grammar"."""
    value: Any


def to_format(asked: ChatRequest, tokenizer: Tokenizer) -> AnswerFormat:
    """What the answer must be like. Compiles grammars, which takes a tenth of a second or more.

    Raises InvalidRequest for a field that makes no sense, and GrammarRefused, which names it,
    for a regex, choice or grammar that can't be compiled.
    """
    found = [*_openai(asked.response_format), *_structured(asked.structured_outputs)]
    found += [
        _Asked(f"guided_{kind}", kind, value)
        for kind in ("json", "regex", "choice", "grammar")
        if (value := getattr(asked, f"guided_{kind}")) is not None
    ]
    if not found:
        return TEXT
    if len(found) > 1:
        raise InvalidRequest(
            f"{found[1].param}: {found[0].param} says already what the answer must be like",
            param=found[1].param,
        )
    return _formed(found[0], tokenizer)


def _formed(asked: _Asked, tokenizer: Tokenizer) -> AnswerFormat:
    schema = asked.kind in ("json", "json_object")
    try:
        text = _grammar(asked)
        (refusal,) = tokenizer.grammar_refusals([text])
    except GrammarRefused as error:
        text, refusal = "", str(error)
    if not refusal:
        return AnswerFormat(text, json=schema)
    if not schema:
        raise GrammarRefused(f"{asked.param}: {refusal}", param=asked.param)
    return AnswerFormat(warning=warning(f"{asked.param} is not enforced: {refusal}"))


def _openai(value: Any) -> list[_Asked]:
    if value is None:
        return []
    param = "response_format"
    kind = _object(value, param).get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        return [_Asked(param, kind, None)]
    if kind == "json_schema":
        param += ".json_schema"
        value = _object(value.get("json_schema"), param)
        return [_Asked(f"{param}.schema", "json", value.get("schema"))]
    raise InvalidRequest(
        f"{param}.type: should be 'text', 'json_object' or 'json_schema'", param=f"{param}.type"
    )


def _structured(value: Any) -> list[_Asked]:
    if value is None:
        return []
    param = "structured_outputs"
    kinds = ("json", "regex", "choice", "grammar", "json_object")
    named = {key: item for key, item in _object(value, param).items() if item not in (None, False)}
    found = [_Asked(f"{param}.{kind}", kind, named[kind]) for kind in kinds if kind in named]
    unknown = next((key for key in named if key not in kinds), None)
    if unknown is not None:
        place = f"{param}.{unknown}"[:LONGEST]
        raise InvalidRequest(f"{place}: not supported; {', '.join(kinds)} are", param=place)
    return found


def _grammar(asked: _Asked) -> str:
    """Raises InvalidRequest for a value of the wrong type, GrammarRefused for a wrong one."""
    match asked.kind:
        case "json_object":
            return grammar.json_object()
        case "json":
            return grammar.json_schema(_schema(asked))
        case "regex":
            return grammar.regex(_string(asked.value, asked.param))
        case "choice":
            return grammar.choice(_choices(asked))
        case _:
            return grammar.lark(_string(asked.value, asked.param))


def _schema(asked: _Asked) -> dict[str, Any]:
    value = asked.value
    if isinstance(value, str):  # as vLLM takes it
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidRequest(f"{asked.param}: {error}", param=asked.param) from error
    return _object(value, asked.param)


def _choices(asked: _Asked) -> list[str]:
    value = asked.value
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not strings or not 0 < len(value) <= CHOICES:
        raise InvalidRequest(
            f"{asked.param}: should be a list of 1 to {CHOICES} strings", param=asked.param
        )
    return list(value)


def _object(value: Any, param: str) -> dict[str, Any]:
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
    except ValueError as error:
        raise Interrupted(
            "the answer is incomplete: its schema became too ambiguous to follow"
        ) from error
