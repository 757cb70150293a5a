"""The machines of a cluster: who is here, who may be gone, and whom the next epoch may use.

Knows nothing of connections and reads no clock; every time is in seconds on the coordinator's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cluster.core.errors import NotAuthorized

SUSPECT_SECONDS = 2.0
"""Silence after which a machine may be gone."""
DEAD_SECONDS = 5.0
"""Silence after which it is taken for gone."""
DEAD_WIRELESS_SECONDS = 15.0
"""The same for one that is reached over Wi-Fi, which pauses."""
FIRST_BAR, LAST_BAR = 2.0, 60.0
"""Seconds for which a machine is left out after an engine did not come up on it: doubled each
time, from the first to the last."""


class Presence(StrEnum):
    """What a machine's silence means."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(slots=True)
class Node:
    """One machine, as long as it is known."""

    id: str
    """Stable for a machine and its agent's address."""
    incarnation: int
    """Of its agent: grows with each start."""
    ranks: int
    """Engines that it runs in an epoch; 0 for a machine that only gives weights."""
    heard: float
    """When its agent last gave a sign of life."""
    wireless: bool = False
    draining: bool = False
    """A person wants it to be free."""
    bar: float = 0.0
    """Seconds for which it was left out last."""
    barred_until: float = 0.0
    name: str = ""
    """What people call it."""

    def presence(self, now: float) -> Presence:
        """What its silence up to now means."""
        silent = now - self.heard
        if silent >= (DEAD_WIRELESS_SECONDS if self.wireless else DEAD_SECONDS):
            return Presence.DEAD
        return Presence.SUSPECT if silent >= SUSPECT_SECONDS else Presence.ALIVE


class Roster:
    """Machines by id, in the order in which they first came."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._order: dict[str, int] = {}
        """Of every machine that was ever here: one that returns has its old place."""

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(sorted(self._nodes.values(), key=lambda node: self._order[node.id]))

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes

    @property
    def computing(self) -> list[Node]:
        """Those that are there to run engines, whatever their silence means."""
        return [node for node in self if node.ranks]

    def find(self, node_id: str) -> Node | None:
        """The machine by that id, if it is here."""
        return self._nodes.get(node_id)

    def arrive(
        self,
        node_id: str,
        incarnation: int,
        now: float,
        *,
        ranks: int = 1,
        wireless: bool = False,
        name: str = "",
    ) -> Node:
        """A machine's agent answers. One that was started again takes the place of what is
        known of it, a wish to drain it excepted.

        Raises NotAuthorized for an older start of the same machine: a ghost, or a copy of its
        configuration on another machine.
        """
        known = self._nodes.get(node_id)
        if known is not None and incarnation < known.incarnation:
            raise NotAuthorized(
                f"{node_id} is here already, and was started later (incarnation "
                f"{known.incarnation}, not {incarnation}): two machines can't have one id"
            )
        if known is None or incarnation > known.incarnation:
            draining = known is not None and known.draining
            known = Node(node_id, incarnation, ranks, now, wireless, draining, name=name)
            self._nodes[node_id] = known
            self._order.setdefault(node_id, len(self._order))
        known.heard = now
        return known

    def heard(self, node_id: str, incarnation: int, now: float) -> bool:
        """A sign of life; False when it is not that of the machine as it is known."""
        node = self._nodes.get(node_id)
        if node is None or node.incarnation != incarnation:
            return False
        node.heard = now
        return True

    def leave(self, node_id: str, incarnation: int) -> None:
        """It has said that it goes. An older start of it can't say so for a newer one."""
        node = self._nodes.get(node_id)
        if node is not None and node.incarnation == incarnation:
            del self._nodes[node_id]

    def failed(self, node_id: str, now: float) -> None:
        """An engine did not come up on it."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.bar = min(LAST_BAR, 2 * node.bar) if node.bar else FIRST_BAR
            node.barred_until = now + node.bar

    def worked(self, node_ids: Collection[str]) -> None:
        """An epoch runs on these."""
        for node_id in node_ids:
            if (node := self._nodes.get(node_id)) is not None:
                node.bar = node.barred_until = 0.0

    def present(self, now: float) -> list[Node]:
        """Those that an epoch could use, whatever has failed on them."""
        return [
            node
            for node in self.computing
            if node.presence(now) is not Presence.DEAD and not node.draining
        ]

    def usable(self, now: float) -> list[Node]:
        """Those that the next epoch may use. What failed on a machine leaves it out only where
        another is left."""
        present = self.present(now)
        return [node for node in present if node.barred_until <= now] or present

    def alive(self, now: float) -> list[Node]:
        """Those that were heard a moment ago, whether an epoch may use them or not, those that
        only give weights included."""
        return [node for node in self if node.presence(now) is Presence.ALIVE]

    def gone(self, node_ids: Collection[str], now: float) -> list[str]:
        """Those of `node_ids` that are dead, or no longer known."""
        nodes = ((node_id, self._nodes.get(node_id)) for node_id in node_ids)
        return [
            node_id
            for node_id, node in nodes
            if node is None or node.presence(now) is Presence.DEAD
        ]
