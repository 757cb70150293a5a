"""An answer's text, taken apart into what is said, what is thought and what is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.core.answer import CallArguments, Part, Text, Thought
from cluster.text.block import Block, ParsedBlock
from cluster.text.json_block import JsonBlock
from cluster.text.json_scan import SPACE
from cluster.text.marker import Markers
from cluster.text.notation import Notation

GAP = 1024
"""Most white space that is held back; more is text."""
PIECE = 4096
"""Characters read at a time; what is left of them is copied after each marker."""
REFUSALS = 8
"""Blocks that are read once more as what they are not; a bound on the work."""
DOUBTS = 8
"""Calls that are read to the end of a string in vain, to see what a marker in it is; the same."""


class AnswerParser:
    """Text in, parts out, as soon as they are certain.

    Markers may be split anywhere over what is fed. White space around them belongs to nothing:
    all that is before one, and after one what is up to the last line break.
    """

    def __init__(
        self,
        notation: Notation,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        thinking: bool = False,
        forced: bool = False,
    ) -> None:
        """`tools` are OpenAI tool objects; without any, start markers of calls are plain text.
        `thinking`: the answer begins inside a think block. `forced`: it is one call as a whole,
        bare where the notation has no markers for it."""
        self.called = False
        """A call was begun."""
        self._notation = notation
        self._tools = tools
        self._thinking = thinking
        self._forced = forced
        self._bare = forced
        """Nothing was said yet, so a bracket begins a bare call."""
        calls = [notation.call_start, notation.call_end] if tools or forced else []
        layout = notation.layout
        self._markers = Markers([notation.think_start, notation.think_end, *calls, *layout])
        self._buffer = ""
        self._gap = ""
        """White space that may be before a marker."""
        self._fresh = thinking
        """Nothing came since a marker."""
        self._block: Block | None = None
        self._count = 0
        self._refusals = 0
        self._doubts = 0
        self._parts: list[Part] = []

    def feed(self, text: str) -> list[Part]:
        """What has become certain with some more text; neighbours of one kind are joined."""
        for place in range(0, len(text), PIECE):
            self._buffer += text[place : place + PIECE]
            self._run(final=False, cut=False)
        return self._take()

    def finish(self, cut: bool = False) -> list[Part]:
        """What was held back, now that nothing more comes; `cut`: a length has ended the answer,
        so that what is open in it stays open."""
        self._run(final=True, cut=cut)
        if self._gap and not self._fresh:
            self._tell(self._gap)
        self._gap = ""
        return self._take()

    def _run(self, *, final: bool, cut: bool) -> None:
        going = bool(self._buffer) or final
        while going:
            if self._block is not None:
                going = self._read(self._block, final=final, cut=cut)
            elif self._bare:
                going = self._look()
            else:
                going = self._scan(final=final)

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _look(self) -> bool:
        """At the beginning of an answer that is to be a call."""
        rest = self._buffer.lstrip(SPACE)
        self._say(self._buffer[: len(self._buffer) - len(rest)])
        self._buffer = rest
        if not rest:
            return False
        self._bare = False
        if rest[0] == "{":
            self._block = JsonBlock("", "", self._markers, self._count)
        return True

    def _scan(self, *, final: bool) -> bool:
        """Tell what is before a marker, and heed the marker."""
        place, marker = self._markers.find(self._buffer, final=final)
        self._say(self._buffer[:place])
        self._buffer = self._buffer[place + len(marker) :]
        notation = self._notation
        if not marker:
            return False
        if marker == notation.call_start:
            self._open()
        elif marker == notation.think_start:
            self._turn(thinking=True)
        elif marker == notation.think_end:
            self._turn(thinking=False)
            self._bare = self._forced and not self.called
        elif marker == notation.call_end and not self.called:
            self._say(marker)
        return True

    def _turn(self, *, thinking: bool) -> None:
        self._thinking, self._fresh, self._gap = thinking, True, ""

    def _open(self) -> None:
        notation = self._notation
        if notation.json_calls or notation.parse is None:
            self._block = JsonBlock(
                notation.call_start,
                notation.call_end,
                self._markers,
                self._count,
                doubtful=self._doubts < DOUBTS,
            )
        else:
            self._block = ParsedBlock(notation, notation.parse, self._tools, self._count)

    def _read(self, block: Block, *, final: bool, cut: bool) -> bool:
        read = block.finish(self._buffer, cut=cut) if final else block.feed(self._buffer)
        self._buffer = self._buffer[read:]
        if block.count and block.parts:
            self._turn(thinking=False)
            self.called, self._bare = True, False
        for part in block.parts:
            self._add(part)
        block.parts = []
        if block.over:
            self._block = None
            self._count += block.count
            self._doubts += block.doubts
            self._refused(block.refused, final=final)
        return block.over

    def _refused(self, text: str, *, final: bool) -> None:
        """Tell what was no call. In a think block it was only spoken of, if more comes; there it
        is read once more where it has swallowed the think block's end."""
        end = self._notation.think_end
        start = self._notation.call_start if text.startswith(self._notation.call_start) else ""
        if self._thinking and end and end in text and self._refusals < REFUSALS:
            self._refusals += 1
            self._buffer = text[len(start) :] + self._buffer
            text = start
        elif self._thinking and final and text:
            self._turn(thinking=False)
        self._say(text)

    def _say(self, text: str) -> None:
        """Tell text, but for the white space that a marker may follow."""
        text = self._gap + text
        body = text.rstrip(SPACE)
        gap = text[len(body) :]
        if body:
            if self._fresh:
                inner = body.lstrip(SPACE)
                lead = body[: len(body) - len(inner)][-GAP:]
                body = lead[lead.rfind("\n") + 1 :] + inner
            self._fresh = False
            self._tell(body)
        if len(gap) > GAP and not self._fresh:
            self._tell(gap[:-GAP])
        self._gap = gap[-GAP:]

    def _tell(self, text: str) -> None:
        self._add(Thought(text) if self._thinking else Text(text))

    def _add(self, part: Part) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(part, Text) and isinstance(last, Text):
            self._parts[-1] = Text(last.text + part.text)
        elif isinstance(part, Thought) and isinstance(last, Thought):
            self._parts[-1] = Thought(last.text + part.text)
        elif (
            isinstance(part, CallArguments)
            and isinstance(last, CallArguments)
            and part.index == last.index
        ):
            self._parts[-1] = CallArguments(part.index, last.text + part.text)
        else:
            self._parts.append(part)
