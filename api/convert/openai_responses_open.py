"""Items of a response that are still being written. Pure.

Each method returns events, without the `response.` of their names and without the numbers that
`ResponseWriter` adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.convert.openai_responses_items import (
    call_item,
    message_item,
    output_text,
    reasoning_item,
)

Events = list[tuple[str, dict[str, Any]]]
Logprobs = Sequence[dict[str, Any]]


class OpenItem(Protocol):
    """An item that some more may be written to."""

    def added(self) -> Events:
        """It begins."""
        ...

    def write(self, text: str, logprobs: Logprobs) -> Events:
        """Some more of it."""
        ...

    def done(self, status: str, logprobs: Logprobs) -> Events:
        """It ends; `logprobs` are those that no text came with."""
        ...

    def item(self, status: str) -> dict[str, Any]:
        """As it is now."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the text of an item stands, and what its events are called."""

    part: str
    text: str
    index: str
    type: str


_REASONING = _Place("content_part", "reasoning_text", "content_index", "reasoning_text")
_SUMMARY = _Place(
    "reasoning_summary_part", "reasoning_summary_text", "summary_index", "summary_text"
)


class OpenText:
    """What the assistant says."""

    def __init__(self, item_id: str) -> None:
        self._id = item_id
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def added(self) -> Events:
        """See OpenItem."""
        item = {**self.item("in_progress"), "content": []}
        return [
            ("output_item.added", {"item": item}),
            ("content_part.added", {**self._where, "part": output_text("")}),
        ]

    def write(self, text: str, logprobs: Logprobs) -> Events:
        """See OpenItem."""
        self._text.append(text)
        self._logprobs += logprobs
        told = {**self._where, "delta": text, "logprobs": list(logprobs)}
        return [("output_text.delta", told)]

    def done(self, status: str, logprobs: Logprobs) -> Events:
        """See OpenItem."""
        self._logprobs += logprobs
        text = "".join(self._text)
        part = output_text(text, self._logprobs)
        return [
            ("output_text.done", {**self._where, "text": text, "logprobs": self._logprobs}),
            ("content_part.done", {**self._where, "part": part}),
            ("output_item.done", {"item": self.item(status)}),
        ]

    def item(self, status: str) -> dict[str, Any]:
        """See OpenItem."""
        return message_item(self._id, "".join(self._text), status, self._logprobs)

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self._id, "content_index": 0}


class OpenReasoning:
    """What the assistant says to itself."""

    def __init__(self, item_id: str, *, summarized: bool) -> None:
        self._id = item_id
        self._place = _SUMMARY if summarized else _REASONING
        self._text: list[str] = []

    def added(self) -> Events:
        """See OpenItem."""
        part = {**self._where, "part": self._part("")}
        return [
            ("output_item.added", {"item": self.item("in_progress")}),
            (f"{self._place.part}.added", part),
        ]

    def write(self, text: str, logprobs: Logprobs) -> Events:
        """See OpenItem; logprobs have no place here."""
        self._text.append(text)
        return [(f"{self._place.text}.delta", {**self._where, "delta": text})]

    def done(self, status: str, logprobs: Logprobs) -> Events:
        """See OpenItem."""
        text = "".join(self._text)
        return [
            (f"{self._place.text}.done", {**self._where, "text": text}),
            (f"{self._place.part}.done", {**self._where, "part": self._part(text)}),
            ("output_item.done", {"item": self.item(status)}),
        ]

    def item(self, status: str) -> dict[str, Any]:
        """See OpenItem."""
        text = "".join(self._text)
        if self._place is _SUMMARY:
            return reasoning_item(self._id, "", text, status)
        return reasoning_item(self._id, text, "", status)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": self._place.type, "text": text}

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self._id, self._place.index: 0}


class OpenCall:
    """A call that the assistant makes."""

    def __init__(self, item_id: str, call_id: str, name: str) -> None:
        self._id = item_id
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def added(self) -> Events:
        """See OpenItem."""
        return [("output_item.added", {"item": self.item("in_progress")})]

    def write(self, text: str, logprobs: Logprobs) -> Events:
        """See OpenItem; logprobs have no place here."""
        self._arguments.append(text)
        return [("function_call_arguments.delta", {"item_id": self._id, "delta": text})]

    def done(self, status: str, logprobs: Logprobs) -> Events:
        """See OpenItem."""
        told = {"item_id": self._id, "name": self._name, "arguments": "".join(self._arguments)}
        return [
            ("function_call_arguments.done", told),
            ("output_item.done", {"item": self.item(status)}),
        ]

    def item(self, status: str) -> dict[str, Any]:
        """See OpenItem."""
        arguments = "".join(self._arguments)
        return call_item(self._id, self._call_id, self._name, arguments, status)
