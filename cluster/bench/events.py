"""Server-sent events from bytes, however they were cut. Pure, and on the hot path."""

from __future__ import annotations

from cluster.core.errors import AnswerFailed

LINE = 1 << 20
"""Bytes of one event at most: one token's is a few hundred."""
DONE = b"[DONE]"


class Events:
    """Takes bytes in, gives the `data` of each event that is complete.

    Lines end in LF or CR LF. Comments, which are signs of life, and other fields are passed over.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete; raises AnswerFailed when one is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE:
            raise AnswerFailed("bad_stream", f"an event is longer than {LINE} bytes")
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data.clear()
        return found
