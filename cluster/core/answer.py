"""An answer in parts, whatever dialect it is told in: text, reasoning, tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Some more of what is said to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Some more of what the model says to itself first."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model calls a tool; its arguments follow."""

    index: int
    """Of the call in the answer, from 0."""
    id: str
    """Random and unguessable, without a dialect's prefix: 24 hexadecimal digits."""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Some more of a call's arguments, as JSON; joined they are a JSON object, unless a length
    has cut the answer off."""

    index: int
    text: str


Part = Text | Thought | CallBegun | CallArguments


@dataclass(frozen=True, slots=True)
class Call:
    """A whole tool call."""

    id: str
    name: str
    arguments: str
    """JSON; cut off where a length has ended the answer."""
