"""What a model writes between the markers of a tool call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cluster.core.answer import CallArguments, Part
from cluster.text.call import begun, calls_of
from cluster.text.marker import Markers
from cluster.text.notation import Notation, Parse

LONGEST = 1 << 20
"""Most characters that are held back before they are told as text."""

_PARSE_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    MemoryError,
)
"""What mlx-lm's parsers raise over text that they were not written for; the last two are of
deeply nested text."""


class Block(Protocol):
    """From one start marker to where its calls end."""

    parts: list[Part]
    """What is to be told; whoever reads takes it out."""
    over: bool
    refused: str
    """Once it is over: what turned out to be no call, and is text."""
    count: int
    """Calls that were begun."""
    doubts: int
    """Times that text was read in vain, and will be once more."""

    def feed(self, text: str) -> int:
        """How much of `text` is read; the rest comes again, with more after it, or after the
        block."""
        ...

    def finish(self, text: str, *, cut: bool) -> int:
        """The same where nothing comes after; `cut` by a length. The block is over then."""
        ...


class BlockBase:
    """What blocks have in common."""

    def __init__(self, start: str, index: int) -> None:
        self.parts: list[Part] = []
        self.over = False
        self.refused = ""
        self.count = 0
        self.doubts = 0
        self._index = index
        self._raw: list[str] = [start]
        self._length = 0

    def _keep(self, text: str) -> None:
        self._raw.append(text)
        self._length += len(text)

    def _refuse(self, rest: str = "") -> None:
        self.over, self.refused = True, "".join([*self._raw, rest])

    def _tell(self, calls: list[tuple[str, str]]) -> None:
        for name, arguments in calls:
            index = self._index + self.count
            self.parts += [begun(index, name), CallArguments(index, arguments)]
            self.count += 1
        self.over = True


class ParsedBlock(BlockBase):
    """Calls in a notation of the model's own, told at the block's end."""

    def __init__(
        self, notation: Notation, parse: Parse, tools: Sequence[Mapping[str, Any]], index: int
    ) -> None:
        super().__init__(notation.call_start, index)
        self._end = notation.call_end
        self._ends = Markers([notation.call_end])
        self._parse = parse
        self._tools = list(tools)

    def feed(self, text: str) -> int:
        """See Block."""
        place, end = self._ends.find(text)
        self._keep(text[:place])
        if self._length > LONGEST:
            self._refuse()
        elif end:
            self._close(end, named=False)
            return place + len(end)
        return place

    def finish(self, text: str, *, cut: bool) -> int:
        """See Block. Of a call that lacks its end marker the name must be that of a tool: some
        parsers find calls in anything."""
        self._keep(text)
        if (cut and self._end) or self._length > LONGEST:
            self._refuse()
        else:
            self._close("", named=bool(self._end))
        return len(text)

    def _close(self, end: str, *, named: bool) -> None:
        calls = self._parsed("".join(self._raw[1:]))
        names = {tool.get("function", {}).get("name") for tool in self._tools}
        if not calls or (named and any(name not in names for name, _ in calls)):
            self._refuse(end)
        else:
            self._tell(calls)

    def _parsed(self, text: str) -> list[tuple[str, str]]:
        for tools in (self._tools, None):
            try:
                return calls_of(self._parse(text, tools))
            except _PARSE_FAULTS:
                continue
        return []
