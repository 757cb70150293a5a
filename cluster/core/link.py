"""Links between machines: what is asked of two agents, and what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Door:
    """One address on which an agent listens for probes."""

    host: str
    port: int
    """0 when it could not be opened; `error` says why."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Listening:
    """An agent's listeners for probes."""

    doors: tuple[Door, ...]
    """In the order of the hosts that were asked for."""
    token: bytes = field(repr=False)
    """Random; a prober proves that it has it, and so does the listener."""


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """What an agent is to measure."""

    host: str
    port: int
    token: bytes = field(repr=False)
    source: str = ""
    """Address to connect from; empty: the system chooses, as it does for MLX's ring."""
    messages: int = 5
    """Round trips to measure."""
    seconds: float = 0.0
    """How long to send for throughput; 0: not at all."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What it found."""

    error: str = ""
    """Why the listener can't be reached; empty when it can."""
    source: str = ""
    """Address that was connected from."""
    round_trip: float = 0.0
    """Seconds, the median."""
    bytes_per_second: float = 0.0
    """0 when not measured."""


@dataclass(frozen=True, slots=True)
class Link:
    """A way from one node to an address of another, as it was probed."""

    source: str
    """Address of the node that connects; empty when `error` is set."""
    target: str
    """Address of the node that listens."""
    kind: str
    """As of an Address; of the lesser of the two ends."""
    round_trip: float = 0.0
    """Seconds, the median."""
    bytes_per_second: float = 0.0
    """0 when not measured."""
    rdma: tuple[str, str] = ("", "")
    """RDMA devices at the source and at the target; empty for none."""
    error: str = ""
    """Why it can't be used; empty when it can."""


LinkTable = Mapping[tuple[int, int], Sequence[Link]]
"""(i, j) -> the links from node i to node j, usable or not."""
