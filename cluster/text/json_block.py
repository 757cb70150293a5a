"""Tool calls as JSON between markers, told as they come."""

from __future__ import annotations

from copy import deepcopy

from cluster.text.block import LONGEST, BlockBase
from cluster.text.call import JsonCall, calls_of, loosely
from cluster.text.json_scan import SPACE
from cluster.text.marker import Markers

DOUBT = 64 << 10
"""Most characters after an end marker in a string that are held back until it is known whether
the marker belongs to the string."""
TAIL = 1024
"""Most characters of space and surplus brackets after a call that are held back with it."""


class JsonBlock(BlockBase):
    """Calls as JSON, told as they come; `start` and `end` are empty for a bare one."""

    def __init__(
        self, start: str, end: str, markers: Markers, index: int, *, doubtful: bool = True
    ) -> None:
        """Not `doubtful`: every end marker is taken for one, even in a string."""
        super().__init__(start, index)
        self._doubtful = doubtful
        self._end = end
        self._ends = Markers([end])
        self._markers = markers
        """All there are: any of them ends a call that can't be read as it comes."""
        self._call = JsonCall(index)
        self._empty = True
        """No more than white space was read."""
        self._broken = False
        """The call can't be read as it comes."""
        self._closed = False
        """A call is whole; the end marker, or one more call, comes."""
        self._trial: JsonCall | None = None
        """The call, had the end marker that was read last been a part of a string."""
        self._tried = 0
        self._sure = False
        """End markers in strings belong to them."""

    def feed(self, text: str) -> int:
        """See Block."""
        return self._read(text, final=False)

    def finish(self, text: str, *, cut: bool) -> int:
        """See Block."""
        place = self._read(text, final=True)
        if self.over:
            return place
        if self._trial is not None:
            if not cut and not (self._trial.done and not self._tail(text[place:])):
                self._doubt_ends()
                return place + len(self._end)
            self._commit(self._trial, text[place:])
        if self._closed:
            self.over = True
        elif cut:
            self._stop()
        else:
            self._complete("")
        return len(text)

    def _read(self, text: str, *, final: bool) -> int:
        place, before = 0, None
        while not self.over and (now := (place, self._state)) != before:
            before = now
            if self._trial is not None:
                place += self._try(text[place:])
            elif self._broken:
                place += self._hold(text[place:], final=final)
            elif self._closed:
                place += self._after(text[place:])
            else:
                place += self._advance(text[place:], final=final)
        return place

    @property
    def _state(self) -> tuple[bool, ...]:
        """What decides how text is read; it may change without any being read."""
        return self._empty, self._trial is None, self._broken, self._closed

    def _advance(self, text: str, *, final: bool) -> int:
        """Read on in a call, as far as the end marker."""
        if self._empty:
            return self._begin(text)
        stop, end = self._ends.find(text, final=final)
        place = self._call.feed(text[:stop])
        self._told(text[:place])
        if self.over:
            return place
        if self._call.done:
            self._closed = True
            self.over = not self._end
        elif self._call.failed:
            self._fail()
        elif end and self._call.in_string and self._doubtful and not self._sure:
            self._trial, self._tried = deepcopy(self._call), 0
        elif end and self._call.in_string and self._sure:
            self._call.feed(end)
            self._told(end)
            return stop + len(end)
        elif end:
            self._complete(end)
            return stop + len(end)
        return place

    def _begin(self, text: str) -> int:
        rest = text.lstrip(SPACE)
        lead = text[: len(text) - len(rest)]
        self._told(lead)
        if rest and not self.over:
            self._empty = False
            if rest[0] not in "{[`":
                self._refuse()
        return len(lead)

    def _told(self, text: str) -> None:
        """Take what the call tells; its text is kept while nothing is told."""
        if not self._call.begun:
            self._keep(text)
            if self._length > LONGEST:
                self._refuse()
        elif self._raw:  # its name has just become known
            self.count += 1
            self._raw.clear()
        self.parts += self._call.parts
        self._call.parts = []

    def _fail(self) -> None:
        """The call can't be read on: what was told of it is ended, the rest is text."""
        if self._call.begun:
            self._call.failed = False
            unused = self._call.unused()
            self._call.finish()
            self._told("")
            self.over, self.refused = True, unused
        else:
            self._broken = True

    def _complete(self, end: str) -> None:
        """The call ends here, whole or not."""
        self._call.finish()
        self._told("")
        if self._call.begun:
            self.over = True
        else:
            self._mend(end)

    def _stop(self) -> None:
        """A length has ended the answer."""
        self.over = True
        if not self._call.begun:
            self._refuse()

    def _mend(self, end: str) -> None:
        """Make calls of what could not be read as it came."""
        try:
            self._tell(calls_of(loosely("".join(self._raw[1:]))))
        except ValueError:
            self._refuse(end)

    def _hold(self, text: str, *, final: bool) -> int:
        """Nothing could be told so far; any marker ends it."""
        place, marker = self._markers.find(text, final=final)
        self._keep(text[:place])
        if self._length > LONGEST:
            self._refuse()
        elif marker:
            own = marker if marker == self._end else ""
            self._mend(own)
            return place + len(own)
        return place

    def _after(self, text: str) -> int:
        """After a whole call; surplus brackets are dropped."""
        rest = text.lstrip(SPACE + "}]")
        place = len(text) - len(rest)
        if rest.startswith(self._end):
            self.over = True
            return place + len(self._end)
        if rest.startswith("{"):
            self._call = JsonCall(self._index + self.count)
            self._closed, self._raw, self._length = False, [""], 0
        elif not self._end.startswith(rest):
            self.over = True
        return place

    def _try(self, text: str) -> int:
        """Whether the end marker that `text` begins with belongs to a string: it does if the call
        goes on and ends well, with an end marker of its own."""
        trial = self._trial
        if trial is None:
            return 0
        if not (trial.done or trial.failed):
            self._tried = self._try_on(trial, text)
        if trial.done:
            tail = self._tail(text)
            surplus = len(text) - self._tried - len(tail)
            if tail.startswith(self._end) or surplus > TAIL:
                self._commit(trial, text[: self._tried])
                return self._tried
            if self._end.startswith(tail):
                return 0
        elif not trial.failed and len(text) <= DOUBT:
            return 0
        elif not trial.failed:
            self._commit(trial, text[: self._tried])
            self._sure = True
            return self._tried
        self._doubt_ends()
        return len(self._end)

    def _try_on(self, trial: JsonCall, text: str) -> int:
        place = self._tried
        while place < len(text) and not (trial.done or trial.failed):
            stop, end = self._ends.find(text[place:])
            read = trial.feed(text[place : place + stop])
            place += read
            if read < stop or not end:
                break
            if place and not trial.in_string:
                trial.failed = not trial.done
                break
            place += trial.feed(end)
        return place

    def _tail(self, text: str) -> str:
        return text[self._tried :].lstrip(SPACE + "}]")

    def _commit(self, trial: JsonCall, text: str) -> None:
        self._call, self._trial = trial, None
        self._told(text)
        self._closed = trial.done

    def _doubt_ends(self) -> None:
        """The marker was one: the string was never ended."""
        self._trial = None
        self.doubts += 1
        self._complete(self._end)
