"""The machines that have a certificate: who is one of the cluster, and who no longer.

A machine that is not listed is refused like a revoked one, so a list that is lost lets nobody in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST_NODES = 1024


class NodeEntry(BaseModel):
    """What the cluster's file keeps of one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")]
    joined: int
    """Unix time."""
    expires: int
    """Unix time: of its newest certificate."""
    revoked: int | None = None
    """Unix time."""

    def state(self, now: float) -> str:
        """One of "valid", "revoked" and "expired"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if now >= self.expires else "valid"


class Nodes(BaseModel):
    """The file of machines."""

    model_config = ConfigDict(extra="forbid")

    nodes: tuple[NodeEntry, ...] = ()


def new_id(hostname: str) -> str:
    """An id that no machine has had: the first part of its host name, and 8 random digits."""
    first = re.sub(r"[^a-z0-9]+", "-", hostname.lower().split(".")[0]).strip("-")
    return f"{first[:32].strip('-') or 'node'}-{secrets.token_hex(4)}"


def trouble(entries: Iterable[NodeEntry], node: str) -> str:
    """Why `node` is to be refused; empty when it is not."""
    entry = next((entry for entry in entries if entry.id == node), None)
    if entry is None:
        return f"{node} is not one of this cluster's machines"
    return f"{node} was revoked" if entry.revoked is not None else ""


def keep(entries: Sequence[NodeEntry], now: float) -> tuple[NodeEntry, ...]:
    """The entries without those whose last certificate has ended: nothing is left to refuse."""
    return tuple(entry for entry in entries if now < entry.expires)
