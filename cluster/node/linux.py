"""What Linux says of itself in files and by its tools, taken apart; empty for what is missing.

Forms: the kernel's ABI/testing/sysfs-bus-thunderbolt and ABI/stable/sysfs-class-infiniband,
timedatectl(1), ufw(8), nft(8).
"""

from __future__ import annotations

import re
from pathlib import Path

from cluster.core.facts import FirewallState, ThunderboltPort


def parse_timedatectl(text: str) -> bool | None:
    """Whether the clock follows a time server, in the output of `timedatectl show`."""
    found = re.search(r"^NTPSynchronized=(yes|no)$", text, re.MULTILINE)
    return found[1] == "yes" if found else None


def read_ufw(path: Path) -> bool:
    """Whether ufw is on, in /etc/ufw/ufw.conf; `ufw status` is for root only."""
    try:
        return "ENABLED=yes" in path.read_text(errors="replace").splitlines()
    except OSError:
        return False


def parse_nft(text: str) -> FirewallState:
    """Whether `nft list ruleset` drops what comes in unless a rule accepts it; UNKNOWN when it
    has said nothing, which it also does when there are no rules."""
    if not text:
        return FirewallState.UNKNOWN
    policies = re.findall(r"hook input [^}]*?policy (drop|accept)", text)
    return FirewallState.ON if "drop" in policies else FirewallState.OFF


def read_thunderbolt(
    root: Path = Path("/sys/bus/thunderbolt/devices"),
) -> tuple[ThunderboltPort, ...]:
    """Links to other machines: "XDomains", which unlike disks and docks need no authorization."""
    found = []
    for folder in sorted(root.glob("*-*")):
        if (folder / "rx_speed").is_file() and not (folder / "authorized").exists():
            lane = re.match(r"(\d+)", read_line(folder / "rx_speed"))
            lanes = read_line(folder / "rx_lanes")
            interface = next(root.glob(f"{folder.name}.*/net/*"), None)
            found.append(
                ThunderboltPort(
                    name=folder.name,
                    interface=interface.name if interface else "",
                    gigabits=int(lane[1]) * (int(lanes) if lanes.isdigit() else 1) if lane else 0,
                    peer=read_line(folder / "device_name") or "a machine",
                )
            )
    return tuple(found)


def read_rdma(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(all RDMA devices, those with a port that is active) below /sys/class/infiniband."""
    devices = sorted(folder.name for folder in root.glob("*"))
    active = {
        state.parent.parent.parent.name
        for state in root.glob("*/ports/*/state")
        if "ACTIVE" in read_line(state)
    }
    return tuple(devices), tuple(name for name in devices if name in active)


def read_line(path: Path) -> str:
    """The first line of a file; "" when it can't be read."""
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""
