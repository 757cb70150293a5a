"""What `tandem doctor` knows of a machine and of pairs of them, and what it makes of that.

Plain values only, so that the facts of another machine can travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.core.cluster import Address, Blas, Versions


@dataclass(frozen=True, slots=True)
class ThunderboltPort:
    """One Thunderbolt socket of a machine."""

    name: str
    """"Thunderbolt 2"; on Linux the name of the link below /sys/bus/thunderbolt."""
    interface: str
    """"en3"; empty when it has none, or it is not known."""
    gigabits: int
    """Of the link while a machine is at its other end, else the most it can do; 0: unknown."""
    peer: str
    """The machine at the other end; empty for none."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Room where Tandem writes."""

    use: str
    """"models" or "prefixes"."""
    path: str
    free_bytes: int
    writable: bool


class FirewallState(StrEnum):
    """What a firewall does with connections from outside."""

    OFF = "off"
    ON = "on"
    CLOSED = "closed"
    """Refuses all of them."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Facts:
    """One machine, as it was found at one moment."""

    hostname: str
    system: str
    """"macOS 26.2", "Linux 6.8.0"."""
    chip: str
    cores: int
    memory_bytes: int
    """Installed, or what this container may use."""
    usable_bytes: int
    """What engines may use together."""
    available_bytes: int
    """Not in use by anyone now."""
    locked_limit_bytes: int
    """RLIMIT_MEMLOCK; -1 for none."""
    blas: Blas
    versions: Versions
    python: str
    """The program that a firewall has to let in."""
    addresses: tuple[Address, ...]
    networks: tuple[str, ...]
    """Of these addresses, IPv4, without loopback: "192.168.1.0/24"."""
    disks: tuple[Disk, ...]
    multicast_error: str = ""
    """Name of the errno that a datagram to the mDNS group meets ("EHOSTUNREACH"); empty: none."""
    thunderbolt: tuple[ThunderboltPort, ...] = ()
    bridged: tuple[str, ...] = ()
    """Interfaces that are members of a bridge (macOS)."""
    rdma_setting: str = ""
    """What macOS's `rdma_ctl status` says: "enabled", "disabled"; "" when it can't be asked."""
    rdma_devices: tuple[str, ...] = ()
    rdma_active: tuple[str, ...] = ()
    """Those of them whose port is up."""
    firewall: str = ""
    """"macOS", "ufw", "firewalld", "nftables"; empty when none was found."""
    firewall_state: FirewallState = FirewallState.UNKNOWN
    wired_limit_mb: int = 0
    """macOS's iogpu.wired_limit_mb; 0 is its default."""
    clock_synchronized: bool | None = None
    """Whether it follows a time server (Linux); None: not known."""
    clock_offset: float | None = None
    """Seconds that this clock is behind a time server (macOS); None: not known."""
    unanswered: tuple[str, ...] = ()
    """Commands that are missing, failed, or took too long."""
    heard: tuple[str, ...] | None = None
    """Node ids that mDNS has brought from machines that said to be of the same cluster, while this
    one listened; anyone can say so. None: it has not listened."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A machine of a running cluster that was asked for its facts: they, or why there are none."""

    node_id: str
    hostname: str
    agent_address: str
    facts: Facts | None = None
    error: str = ""
    """Why it has not answered; empty when it has."""
    ahead: float = 0.0
    """Seconds that its clock is ahead of the coordinator's; 0 without facts."""
    ahead_within: float = 0.0
    """Seconds by which `ahead` may be wrong: half of the way there and back."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Every machine of a running cluster, asked at once: what `GET /cluster/facts` answers."""

    join: str
    """"host:port" where workers join; empty where none can."""
    machines: tuple[Surveyed, ...]


def clock_ahead(
    sent: float, received: float, answered: float, arrived: float
) -> tuple[float, float]:
    """(seconds that another clock is ahead of ours, seconds by which that may be wrong).

    A question was `sent` and its answer `arrived` by our clock; by the other it was `received`
    and `answered`. As in NTP (RFC 5905, section 8): the way there and the way back are taken to be
    as long as each other, so it is wrong by at most half of both.
    """
    ahead = ((received - sent) + (answered - arrived)) / 2
    away = (arrived - sent) - (answered - received)
    return ahead, max(0.0, away) / 2


@dataclass(frozen=True, slots=True)
class Pair:
    """What one machine has measured towards another."""

    here: str
    there: str
    """Host names."""
    link: str
    """Kind of the link, as in `Address`."""
    round_trip_us: float | None = None
    gigabits: float | None = None
    """None: not measured."""
    announced: bool | None = None
    """Whether `here` has heard the mDNS announcement of `there`; None: nobody has looked."""
    error: str = ""
    """Why `there` could not be reached; empty when it was."""
    here_id: str = ""
    there_id: str = ""
    """Node ids."""


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Good to know; nothing is wrong."""
    WARNING = "warning"
    """Works, but slower or less surely than it could."""
    PROBLEM = "problem"
    """A cluster would not work like this."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    level: Level
    text: str
    """One line."""
    mend: str = ""
    """The shell command that mends it, on the machine that it was found on; empty: none."""
    machine: str = ""
    """On which it was found, "studio (10.0.0.1:8644)"; empty: here, or in the cluster as a whole,
    and then `mend` says where."""
