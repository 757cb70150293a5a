"""What a client's `traceparent` says (W3C Trace Context): its trace goes on here."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Parent:
    """The span of the client's that this request belongs to."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 of them."""
    sampled: bool
    """The client records it, and would have others do so too."""


def parent_of(header: str | None) -> Parent | None:
    """What a traceparent says; None for none, and for one that is malformed, which is to be read
    as none (W3C Trace Context, section 4.3)."""
    found = _FORM.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if (
        version == "ff"
        or (version == "00" and more)
        or not (trace_id.strip("0") and span_id.strip("0"))
    ):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1))
