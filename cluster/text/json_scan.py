"""A JSON value that comes in pieces, handed on as it comes, with what models get wrong mended."""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any

SPACE = " \t\r\n"
DEPTH = 200
"""Deepest nesting; readers of JSON recurse."""

_PLAIN = re.compile(r"[^\\\"'\x00-\x1f]+")
_WORD = re.compile(r"[A-Za-z0-9+\-._]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null"} | {
    "True": "true",
    "False": "false",
    "None": "null",
}
_CLOSER = {"{": "}", "[": "]"}
_OPENER = {"}": "{", "]": "["}


class _Expect(Enum):
    VALUE = auto()
    ITEM = auto()
    """A value, or the end of the list."""
    KEY = auto()
    """A key, or the end of the object."""
    COLON = auto()
    AFTER = auto()
    """A comma, or the end of what is open."""
    STRING = auto()
    ESCAPE = auto()
    QUOTED = auto()
    """What shows whether a quotation mark was the string's end."""
    WORD = auto()


class JsonScanner:
    """Reads one value. Mended are: strings in single quotes, line breaks, quotation marks and
    unknown escapes in strings, Python's True, False and None, commas before a closing bracket,
    and missing closing brackets.

    A key is handed on with the beginning of its value, a number or word when it is complete; so
    at any time some closing brackets and perhaps a quotation mark make JSON of what was handed on.
    """

    def __init__(self, after: str) -> None:
        """`after`: the characters that may come after the value, should it be a string."""
        self.done = False
        self.failed = False
        self._after = after
        self._expect = _Expect.VALUE
        self._open: list[str] = []
        self._out: list[str] = []
        self._held: list[str] = []
        """Commas, space and a key, until a value follows them."""
        self._key = False
        """The string that is being read is a key."""
        self._quote = ""
        self._escape = ""
        self._word: list[str] = []
        self._gap: list[str] = []

    @property
    def in_string(self) -> bool:
        """Any character but a quotation mark would be a part of a string."""
        return self._expect in (_Expect.STRING, _Expect.ESCAPE)

    def feed(self, text: str, place: int = 0) -> int:
        """Read `text` from `place` on; returns where the value has ended or is at fault, or the
        text's length."""
        while place < len(text) and not self.done and not self.failed:
            place = self._step(text, place)
        return place

    def take(self) -> str:
        """What has become certain since the last time."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def unused(self) -> str:
        """Once it has failed: what was read and never handed on."""
        return "".join([*self._held, *self._word])

    def finish(self) -> str:
        """What is still certain, and makes JSON of what was handed on; nothing comes after."""
        if self._expect is _Expect.WORD and not self.failed:
            word = self._known() or _guess("".join(self._word))
            if word:
                self._release(word)
        elif self._expect in (_Expect.STRING, _Expect.ESCAPE, _Expect.QUOTED) and not self._key:
            self._out.append('"')
        self._held.clear()
        self._out += [_CLOSER[opener] for opener in reversed(self._open)]
        self._open.clear()
        self.done = True
        return self.take()

    def _step(self, text: str, place: int) -> int:
        match self._expect:
            case _Expect.STRING:
                return self._string(text, place)
            case _Expect.ESCAPE:
                return self._escaped(text[place], place)
            case _Expect.QUOTED:
                return self._quoted(text[place], place)
            case _Expect.WORD:
                return self._read_word(text, place)
        character = text[place]
        if character in SPACE:
            self._held.append(character)
            return place + 1
        match self._expect:
            case _Expect.VALUE | _Expect.ITEM:
                return self._value(character, place)
            case _Expect.KEY:
                return self._begin_key(character, place)
            case _Expect.COLON:
                return self._colon(character, place)
            case _:
                return self._go_on(character, place)

    def _value(self, character: str, place: int) -> int:
        if character in _CLOSER and len(self._open) < DEPTH:
            self._release(character)
            self._open.append(character)
            self._expect = _Expect.KEY if character == "{" else _Expect.ITEM
        elif character in "\"'":
            self._release('"')
            self._begin_string(character, key=False)
        elif _WORD.match(character):
            self._expect, self._word = _Expect.WORD, []
            return place
        elif character == "]" and self._expect is _Expect.ITEM:
            self._close(character)
        else:
            self.failed = True
            return place
        return place + 1

    def _begin_key(self, character: str, place: int) -> int:
        if character in "\"'":
            self._held.append('"')
            self._begin_string(character, key=True)
        elif character == "}":
            self._close(character)
        else:
            self.failed = True
            return place
        return place + 1

    def _colon(self, character: str, place: int) -> int:
        if character != ":":
            self.failed = True
            return place
        self._held.append(character)
        self._expect = _Expect.VALUE
        return place + 1

    def _go_on(self, character: str, place: int) -> int:
        if character == ",":
            self._held.append(character)
            self._expect = _Expect.KEY if self._open[-1] == "{" else _Expect.ITEM
        elif _OPENER.get(character) in self._open:
            self._close(character)
        else:
            self.failed = True
            return place
        return place + 1

    def _close(self, character: str) -> None:
        """Close what the bracket belongs to, and what was left open within."""
        self._held.clear()
        while True:
            opener = self._open.pop()
            self._out.append(_CLOSER[opener])
            if _CLOSER[opener] == character:
                break
        self._ended()

    def _begin_string(self, quote: str, *, key: bool) -> None:
        self._expect, self._quote, self._key = _Expect.STRING, quote, key

    def _string(self, text: str, place: int) -> int:
        plain = _PLAIN.match(text, place)
        if plain:
            self._put(plain[0])
            return plain.end()
        character = text[place]
        if character == self._quote:
            self._expect, self._gap = _Expect.QUOTED, []
        elif character == "\\":
            self._expect, self._escape = _Expect.ESCAPE, ""
        else:
            self._put(_within(character))
        return place + 1

    def _escaped(self, character: str, place: int) -> int:
        """Hand on an escape when it is whole; a backslash that begins none stands for itself."""
        escape = self._escape + character
        if escape[0] == "u" and all(digit in "0123456789abcdefABCDEF" for digit in escape[1:]):
            self._escape = escape
            if len(escape) == 5:
                self._put("\\" + escape)
                self._expect = _Expect.STRING
            return place + 1
        self._expect = _Expect.STRING
        if self._escape or character not in "\"\\/bfnrt'\n":
            self._put("\\\\" + self._escape)
            return place
        self._put({"'": "'", "\n": "\\n"}.get(character, "\\" + character))
        return place + 1

    def _quoted(self, character: str, place: int) -> int:
        if character in SPACE:
            self._gap.append(character)
            return place + 1
        legal = ":" if self._key else ",}]" if self._open else self._after
        if character in legal:
            self._put('"')
            self._ended()
            if self._key:
                self._expect, self._key = _Expect.COLON, False
        else:
            self._put("".join(map(_within, [self._quote, *self._gap])))
            self._expect = _Expect.STRING
        return place

    def _read_word(self, text: str, place: int) -> int:
        more = _WORD.match(text, place)
        if more:
            self._word.append(more[0])
            return more.end()
        word = self._known()
        if word:
            self._release(word)
            self._word = []
            self._ended()
        else:
            self.failed = True
        return place

    def _known(self) -> str:
        word = "".join(self._word)
        return word if _NUMBER.fullmatch(word) else _WORDS.get(word, "")

    def _ended(self) -> None:
        self._expect = _Expect.AFTER
        self.done = not self._open

    def _put(self, text: str) -> None:
        (self._held if self._key else self._out).append(text)

    def _release(self, text: str) -> None:
        self._out += [*self._held, text]
        self._held.clear()


def too_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than DEPTH deep."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for items in inner for item in items]
    return True


def mended(text: str) -> str:
    """JSON of a text that was meant to be that; empty when it can't be made out."""
    scanner = JsonScanner("")
    place = scanner.feed(text.strip(SPACE))
    whole = scanner.take()
    if scanner.failed or text.strip(SPACE)[place:].strip(SPACE + "}]"):
        return ""
    return whole if scanner.done else whole + scanner.finish()


def _guess(word: str) -> str:
    """What a word was going to be when the text ended."""
    number = word.rstrip("+-.eE")
    if _NUMBER.fullmatch(number):
        return number
    return next((value for known, value in _WORDS.items() if known.startswith(word)), "")


def _within(character: str) -> str:
    """A character as it is written in a string."""
    return json.dumps(character)[1:-1] if character < " " or character == '"' else character
