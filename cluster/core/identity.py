"""Which of two agents with one node id is to be believed: a restart, a ghost, or a copy."""

from __future__ import annotations

from enum import Enum

from cluster.core.cluster import NodeDescription


class Claim(Enum):
    """What a node is to the member that has its node id."""

    SAME = "same"
    """The same agent process, which has come again."""
    RESTARTED = "restarted"
    """A later start on the same machine: it replaces the member at once."""
    GHOST = "ghost"
    """An earlier start on the same machine: it is turned away."""
    COPY = "copy"
    """Another machine: it is refused by name while the member is alive, and replaces it once
    that is silent."""


def claim(member: NodeDescription, other: NodeDescription) -> Claim:
    """What `other` is to `member`, which has the same node id.

    A machine has one boot id at a time, and only one agent can listen at a node's address. So
    with the same boot id the higher incarnation is the later start. With another, or none, the
    machine has been started anew, or its disk was copied: only the member's silence tells.
    """
    if other.instance == member.instance:
        return Claim.SAME
    if not member.boot_id or other.boot_id != member.boot_id:
        return Claim.COPY
    return Claim.RESTARTED if other.incarnation > member.incarnation else Claim.GHOST
