"""Stub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.core.answer import Part, Text
from cluster.text.notation import Notation


class AnswerParser:
    """Stub."""

    def __init__(
        self,
        notation: Notation,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        thinking: bool = False,
        forced: bool = False,
    ) -> None:
        self.called = False

    def feed(self, text: str) -> list[Part]:
        """Stub."""
        return [Text(text)] if text else []

    def finish(self, cut: bool = False) -> list[Part]:
        """Stub."""
        return []
