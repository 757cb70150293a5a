"""A conversation with the model's own words in it as the ids that it sampled.

What a model said and what a template makes of it, once it was taken apart into text, reasoning and
tool calls, seldom have the same tokens; a cache of prefixes needs the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a chat template raises over messages that it was not written for."""

Template = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Messages, and whether an answer is to begin after them, to text."""


def pieces(
    template: Template, messages: Sequence[Mapping[str, Any]], spoken: Mapping[int, Sequence[int]]
) -> list[str | Sequence[int]] | None:
    """The conversation in pieces of text and of ids; None where the template has no place for the
    ids."""
    turns = [
        place
        for place in sorted(spoken)
        if 0 <= place < len(messages) and messages[place].get("role") == "assistant"
    ]
    marks = {place: f"spoken{secrets.token_hex(16)}" for place in turns}
    said = [
        {"role": "assistant", "content": marks[place]} if place in marks else message
        for place, message in enumerate(messages)
    ]
    try:
        text = template(said, True)
        before = template(said, False)
    except TEMPLATE_FAULTS:
        return None
    opening = text[len(before) :] if text.startswith(before) else ""
    found: list[str | Sequence[int]] = []
    for place in turns:
        if text.count(marks[place]) != 1:
            return None
        head, text = text.split(marks[place])
        found += [head + _rest_of(opening, head), spoken[place]]
    return [*found, text]


def _rest_of(opening: str, head: str) -> str:
    """What `head` lacks of the text that an answer was begun with, such as an open think block
    that templates leave out of history."""
    for end in range(len(opening), 0, -1):
        if head.endswith(opening[:end]):
            return opening[end:]
    return ""
