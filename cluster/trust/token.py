"""Join tokens: what a new machine shows once, and what is kept of it.

As text: "tdj1_" and 76 characters of base64url, which are 5 bytes of id, 20 random ones, and the
32 of the authority's fingerprint. By the last a newcomer knows its cluster, by the rest the
cluster knows it. A token is random, so one round of SHA-256 is enough to keep it at rest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from cluster.core.errors import BadConfiguration, NotAuthorized

PREFIX = "tdj1_"
MOST_TOKENS = 256
"""That are kept at a time."""
KEPT_SECONDS = 86400.0
"""After its end, so that a latecomer can be told what is wrong with it."""

_ID, _SECRET, _FINGERPRINT = 5, 20, 32
_LENGTH = 76
_TEXT = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{{_LENGTH}}})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token as a person copies it."""

    id: str
    """10 hex digits; no secret."""
    secret: bytes
    fingerprint: bytes
    """SHA-256 of the authority's certificate."""

    @classmethod
    def make(cls, fingerprint: bytes) -> Self:
        """A new one, for the cluster whose authority has this fingerprint."""
        return cls(secrets.token_hex(_ID), secrets.token_bytes(_SECRET), fingerprint)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadConfiguration when `text` is no token; it is not repeated."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise BadConfiguration(
                f"this is no join token: one begins with {PREFIX} and has {_LENGTH} characters "
                "after that; `tandem token create` on the server prints one"
            )
        raw = base64.urlsafe_b64decode(match[1])
        return cls(raw[:_ID].hex(), raw[_ID:-_FINGERPRINT], raw[-_FINGERPRINT:])

    def __str__(self) -> str:
        raw = bytes.fromhex(self.id) + self.secret + self.fingerprint
        return PREFIX + base64.urlsafe_b64encode(raw).decode()

    def __repr__(self) -> str:
        return f"JoinToken({self.id}, ...)"

    @property
    def digest(self) -> str:
        """What is kept of its secret, in hex."""
        return hashlib.sha256(self.secret).hexdigest()


class TokenEntry(BaseModel):
    """What the cluster's file keeps of one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern="^[0-9a-f]{10}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: int
    """Unix time."""
    expires: int
    """Unix time."""
    reusable: bool = False
    """For any number of machines; else for one."""
    used: int | None = None
    """Unix time at which a machine last joined with it."""

    def state(self, now: float) -> str:
        """One of "valid", "used" and "expired"."""
        if self.used is not None and not self.reusable:
            return "used"
        return "expired" if now >= self.expires else "valid"


class Tokens(BaseModel):
    """The file of tokens."""

    model_config = ConfigDict(extra="forbid")

    tokens: tuple[TokenEntry, ...] = ()


def judge(entries: Iterable[TokenEntry], token: JoinToken, now: float) -> TokenEntry:
    """The entry of a token that may be used `now`. Raises NotAuthorized, which says more to those
    alone who know its secret."""
    entry = next((entry for entry in entries if entry.id == token.id), None)
    expected = entry.sha256 if entry is not None else ""
    if entry is None or not hmac.compare_digest(token.digest, expected):
        raise NotAuthorized("the join token is not known")
    match entry.state(now):
        case "used":
            raise NotAuthorized("the join token was used already, and is good for one machine")
        case "expired":
            raise NotAuthorized("the join token has expired")
    return entry


def keep(entries: Sequence[TokenEntry], now: float) -> tuple[TokenEntry, ...]:
    """The entries without those that ended long ago."""
    return tuple(entry for entry in entries if now < entry.expires + KEPT_SECONDS)
