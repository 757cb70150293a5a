"""The tokens of answers that called tools, so that they can be replayed as they were sampled.

A client sends a call back as name and arguments. Rendered anew they may give other tokens than
the model sampled, and from there on nothing of the cached prefix would hold.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from api.convert.openai_tools import arguments_of
from cluster.core.answer import Call

LARGEST = 1 << 21
"""Tokens held, of all answers together; the answers not used for longest go first."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """An answer with calls."""

    calls: tuple[tuple[str, str], ...]
    """Name and arguments of each, the latter in one way of writing."""
    ids: tuple[int, ...]


class Recall:
    """Answers by the ids of their calls. Used by several threads; does nothing that blocks."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._turns: OrderedDict[tuple[str, tuple[str, ...]], _Turn] = OrderedDict()
        self._tokens = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._turns)

    def remember(self, owner: str, calls: Sequence[Call], ids: Sequence[int]) -> None:
        """An answer to `owner` has `calls`, at least one, and was sampled as `ids`."""
        if not calls or not ids:
            return
        written = tuple((call.name, _canonical(call.arguments)) for call in calls)
        with self._lock:
            key = (owner, tuple(call.id for call in calls))
            self._forget(key)
            self._turns[key] = _Turn(written, tuple(ids))
            self._tokens += len(ids)
            while self._tokens > self._largest:
                self._forget(next(iter(self._turns)))

    def spoken(
        self, owner: str, messages: Iterable[Mapping[str, Any]]
    ) -> dict[int, tuple[int, ...]]:
        """The ids of those of `messages`, by their index, that are known and unchanged."""
        found: dict[int, tuple[int, ...]] = {}
        for index, message in enumerate(messages):
            calls = message.get("tool_calls") if message.get("role") == "assistant" else None
            if not calls:
                continue
            # Dialects put a prefix of their own before an underscore.
            key = (owner, tuple(str(call.get("id")).rpartition("_")[2] for call in calls))
            with self._lock:
                turn = self._turns.get(key)
                if turn is None:
                    continue
                self._turns.move_to_end(key)
            functions = [call["function"] for call in calls]
            if turn.calls == tuple((f["name"], _canonical(f["arguments"])) for f in functions):
                found[index] = turn.ids
        return found

    def _forget(self, key: tuple[str, tuple[str, ...]]) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None:
            self._tokens -= len(turn.ids)


def _canonical(arguments: Any) -> str:
    """Arguments, as JSON or parsed, in one way of writing."""
    if isinstance(arguments, str):
        arguments = arguments_of(arguments)
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False)
