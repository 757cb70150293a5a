"""What a request's headers say of its stream: whose it is, and how it can be found again."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Self

from starlette.datastructures import Headers
from starlette.types import Scope

from api.caller import caller_of
from cluster.core.errors import InvalidRequest

CONVERSATION = "X-Conversation-Id"
KEY = "Idempotency-Key"
LEASE = "X-Stream-Lease"
LAST_EVENT = "Last-Event-ID"

LONGEST_LEASE = 3600.0
"""Seconds."""

_NAME = re.compile(r"[\x21-\x7e]{1,256}")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_OFFSET = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Terms:
    """The headers of one request, and what it asks."""

    owner: str = ""
    conversation: str | None = None
    key: str | None = None
    lease: float | None = None
    """Seconds; None for the server's own."""
    after: int | None = None
    """The offset that Last-Event-ID names."""
    digest: str = ""
    """Of path and body; empty where nothing could be equal to it."""

    @property
    def lasting(self) -> bool:
        """The answer is to go on when its client leaves."""
        return self.conversation is not None or self.key is not None

    def asking(self, path: str, body: bytes) -> Self:
        """These terms with the digest of a request."""
        digest = hashlib.sha256(f"{path.removeprefix('/v1')}\n".encode())
        digest.update(body)
        return replace(self, digest=digest.hexdigest())

    def same(self, later: Terms) -> bool:
        """Whether `later` asks the same, in the same conversation."""
        return (self.owner, self.conversation, self.digest) == (
            later.owner,
            later.conversation,
            later.digest,
        )

    def repeated_by(self, later: Terms) -> bool:
        """Whether `later` may be the same client, trying again: it asks the same, and what it
        says of itself beyond that is no different."""
        return (
            (self.owner, self.digest) == (later.owner, later.digest)
            and later.conversation in (None, self.conversation)
            and later.key in (None, self.key)
        )


def terms_of(scope: Scope) -> Terms:
    """The terms that a request's headers state. Raises InvalidRequest that names the header."""
    headers = Headers(scope=scope)
    return Terms(
        owner=caller_of(scope).owner,
        conversation=_name(headers, CONVERSATION),
        key=_name(headers, KEY),
        lease=_lease(headers),
        after=last_event(headers),
    )


def last_event(headers: Headers) -> int | None:
    """The offset in Last-Event-ID, which an empty one has not."""
    text = headers.get(LAST_EVENT)
    return offset_of(text, LAST_EVENT) if text else None


def offset_of(text: str, param: str) -> int:
    """A place in a stream. Raises InvalidRequest."""
    if not _OFFSET.fullmatch(text):
        raise InvalidRequest(
            f"{param}: must be an offset in bytes, and is {text[:40]!r}", param=param
        )
    return int(text)


def _name(headers: Headers, header: str) -> str | None:
    text = headers.get(header)
    if text is not None and not _NAME.fullmatch(text):
        raise InvalidRequest(
            f"{header}: must be 1 to 256 visible ASCII characters without spaces", param=header
        )
    return text


def _lease(headers: Headers) -> float | None:
    text = headers.get(LEASE)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or float(text) > LONGEST_LEASE:
        raise InvalidRequest(
            f"{LEASE}: must be a number of seconds from 0 to {LONGEST_LEASE:g}", param=LEASE
        )
    return float(text)
