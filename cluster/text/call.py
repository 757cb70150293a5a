"""One tool call that a model writes as JSON, told as it comes."""

from __future__ import annotations

import ast
import json
import secrets
import warnings
from collections.abc import Mapping
from typing import Any

from cluster.core.answer import CallArguments, CallBegun, Part
from cluster.text.json_scan import SPACE, JsonScanner, mended, too_deep

LITERAL = 64 << 10
"""Characters of the longest text that is tried as a Python literal; that takes much memory."""

_ARGUMENTS = ("arguments", "parameters")


class JsonCall:
    """Reads {"name": ..., "arguments": {...}}, its keys in any order, others passed over."""

    def __init__(self, index: int) -> None:
        self.begun = False
        """Its name is known and told."""
        self.done = False
        self.failed = False
        self.parts: list[Part] = []
        """What is to be told; whoever reads takes it out."""
        self._index = index
        self._expect = "{"
        self._scanner: JsonScanner | None = None
        self._value: list[str] = []
        """The key, or the value that isn't handed on as it comes."""
        self._key = ""
        self._streams = False
        """The value that is being read is the arguments."""
        self._argued = False
        self._early: list[str] = []
        """Arguments that came before the name."""

    @property
    def in_string(self) -> bool:
        """Any character but a quotation mark would be a part of a string."""
        return self._scanner is not None and self._scanner.in_string

    def feed(self, text: str, place: int = 0) -> int:
        """Read `text` from `place` on; returns where the call has ended or is at fault, or the
        text's length."""
        while place < len(text) and not self.done and not self.failed:
            if self._scanner is not None:
                place = self._scanner.feed(text, place)
                self._progress(self._scanner, self._scanner.take())
            elif text[place] in SPACE:
                place += 1
            else:
                place = self._structure(text[place], place)
        return place

    def unused(self) -> str:
        """Once it has failed: what was read of the arguments and never told."""
        return self._scanner.unused() if self._scanner is not None else ""

    def finish(self) -> None:
        """Nothing comes after: end the arguments so that they are JSON. Nothing is told of a
        call without a name."""
        scanner = self._scanner
        if scanner is not None and not (self._key == "name" and scanner.in_string):
            self._progress(scanner, scanner.finish())
        self._end()

    def _structure(self, character: str, place: int) -> int:
        """A character between keys and values; what it begins is read from it on."""
        expect = self._expect
        if expect == "key" and character in "\"'":
            self._scanner, self._value = JsonScanner(":"), []
        elif expect == "value":
            self._scanner, self._value = JsonScanner(",}"), []
            self._streams = self._key in _ARGUMENTS and character == "{" and not self._argued
            self._argued |= self._streams
        elif expect in ("key", ",") and character == "}":
            self._end()
            return place + 1
        elif expect == character:
            self._expect = {"{": "key", ":": "value", ",": "key"}[expect]
            return place + 1
        else:
            self.failed = True
        return place

    def _progress(self, scanner: JsonScanner, piece: str) -> None:
        if self._streams:
            self._argue(piece)
        else:
            self._value.append(piece)
        if scanner.failed:
            self.failed = True
        elif scanner.done:
            self._scanner = None
            try:
                self._read("".join(self._value))
            except ValueError:  # an integer too long for Python
                self.failed = True

    def _read(self, text: str) -> None:
        """Take a whole key or value."""
        if self._expect == "key":
            self._key, self._expect = json.loads(text), ":"
            return
        self._expect = ","
        if self._streams or not text:  # an unfinished word
            self._streams = False
        elif self._key == "name" and not self.begun:
            name = json.loads(text)
            if isinstance(name, str) and name.strip():
                self._begin(name.strip())
        elif self._key in _ARGUMENTS and not self._argued:
            arguments = _object(json.loads(text))
            self._argued = True
            self._argue(arguments)

    def _begin(self, name: str) -> None:
        self.begun = True
        self.parts.append(begun(self._index, name))
        early, self._early = "".join(self._early), []
        self._argue(early)

    def _argue(self, piece: str) -> None:
        if not self.begun:
            self._early.append(piece)
        elif piece:
            self.parts.append(CallArguments(self._index, piece))

    def _end(self) -> None:
        self.done = self.begun
        self.failed = not self.begun
        if self.begun and not self._argued:
            self._argued = True
            self._argue("{}")


def begun(index: int, name: str) -> CallBegun:
    """A call with a new id. Half of a surrogate pair can't be sent: JSON's escapes can name one."""
    return CallBegun(index, secrets.token_hex(12), name.encode(errors="replace").decode())


def loosely(text: str) -> Any:
    """The value of what is JSON, or nearly, or Python. Raises ValueError when it can't be made
    out."""
    text = text.strip().removeprefix("```json").strip("`").strip()
    if text.startswith("{{") and text.endswith("}}"):
        text = text[1:-1]
    for candidate in (text, mended(text)):
        try:
            return json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
    if len(text) > LITERAL:
        raise ValueError("too long")
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("no literal") from error


def calls_of(value: Any) -> list[tuple[str, str]]:
    """Names and arguments, as JSON, of one call or a list of them.

    Raises ValueError when there is none, or something else among them, or they are nested deeper
    than readers of JSON go.
    """
    if too_deep(value):
        raise ValueError("nested too deeply")
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    if not calls:
        raise ValueError("no call")
    return calls


def _call(value: Any) -> tuple[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("no call")
    function = value.get("function")
    if isinstance(function, Mapping):
        return _call(function)
    name = value.get("name", function)
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a call without a name")
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    return name.strip(), _object(arguments)


def _object(value: Any) -> str:
    """Arguments as a JSON object, whatever they are. Raises ValueError when they aren't JSON."""
    if isinstance(value, str) and value.strip():
        try:
            inner = loosely(value)
        except ValueError:
            inner = None
        if isinstance(inner, dict):
            value = inner
    if value is None or value == "":
        value = {}
    if not isinstance(value, dict):
        value = {"raw": value}
    if too_deep(value):
        raise ValueError("nested too deeply")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        # Half of a surrogate pair stays the escape that it was: as a character it can't be sent.
        return text if _has_no_half(text) else json.dumps(value, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError("arguments that aren't JSON") from error


def _has_no_half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
