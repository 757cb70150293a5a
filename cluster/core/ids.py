"""Identifiers, each a type of its own so that the checker keeps them apart."""

from __future__ import annotations

import secrets
from typing import NewType

RequestId = NewType("RequestId", str)
"""One request as the client knows it, `chatcmpl-...`: unguessable, in logs and errors."""


def new_request_id(prefix: str) -> RequestId:
    """`chatcmpl-1f00...` for "chatcmpl"; `msg_1f00...` for "msg_", which brings its separator."""
    separator = "" if prefix.endswith("_") else "-"
    return RequestId(f"{prefix}{separator}{secrets.token_hex(16)}")


Slot = NewType("Slot", int)
"""One sequence's KV cache, under the same number on every rank; reused after release."""

Epoch = NewType("Epoch", int)
"""The lifetime of one set of engine processes; grows by one with each new set."""

Seq = NewType("Seq", int)
"""Number of a step within its epoch: 1, 2, 3, ... without a gap."""

Rank = NewType("Rank", int)
"""Place of an engine in its group, from 0 to world size - 1."""

Entry = NewType("Entry", str)
"""A prefix kept on disk, under the same name on every rank: 32 hexadecimal digits."""
