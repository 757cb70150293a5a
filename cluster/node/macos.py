"""What macOS's own tools print, taken apart. Pure; empty results for what is not understood.

Forms: system_profiler(8), networksetup(8), ifconfig(8), sntp(1) and Apple's TN3205 (RDMA over
Thunderbolt).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cluster.core.facts import FirewallState, ThunderboltPort

_FIREWALL = {"0": FirewallState.OFF, "1": FirewallState.ON, "2": FirewallState.CLOSED}


def parse_thunderbolt(text: str, ports: Mapping[str, str]) -> tuple[ThunderboltPort, ...]:
    """Ports in `system_profiler SPThunderboltDataType -json`; `ports` names the hardware port of
    each interface (`parse_hardware_ports`)."""
    try:
        buses = json.loads(text)["SPThunderboltDataType"]
    except (ValueError, LookupError, TypeError):
        return ()
    interfaces = {name: interface for interface, name in ports.items()}
    found = []
    for bus in _dicts(buses):
        socket = bus.get("receptacle_1_tag")
        if isinstance(socket, dict) and "receptacle_id_key" in socket:
            name = f"Thunderbolt {socket['receptacle_id_key']}"
            speed = re.search(r"(\d+) Gb/s", str(socket.get("current_speed_key")))
            found.append(
                ThunderboltPort(
                    name=name,
                    interface=interfaces.get(name, ""),
                    gigabits=int(speed[1]) if speed else 0,
                    peer=_peer(bus.get("_items")),
                )
            )
    return tuple(sorted(found, key=lambda port: port.name))


def _peer(items: object, depth: int = 6) -> str:
    """The first machine among what is plugged in, perhaps behind a hub; only machines have a
    domain of their own, disks and docks have not."""
    for item in _dicts(items):
        if "domain_uuid_key" in item:
            return str(item.get("device_name_key") or item.get("_name") or "a machine")
        if depth and (peer := _peer(item.get("_items"), depth - 1)):
            return peer
    return ""


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def parse_bridge_members(text: str) -> tuple[str, ...]:
    """Interfaces that belong to a bridge, in the output of `ifconfig`."""
    return tuple(re.findall(r"^\s+member: (\S+)", text, re.MULTILINE))


def parse_rdma_status(text: str) -> str:
    """What `rdma_ctl status` says: "enabled", "disabled", or "" for anything else."""
    found = re.search(r"\b(enabled|disabled)\b", text.lower())
    return found[1] if found else ""


def parse_ibv_devinfo(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(all devices, those whose port is active) in the output of `ibv_devinfo`."""
    blocks = re.split(r"^hca_id:\s*", text, flags=re.MULTILINE)[1:]
    states = {block.split()[0]: "PORT_ACTIVE" in block for block in blocks if block.split()}
    return tuple(states), tuple(name for name, active in states.items() if active)


def parse_firewall(text: str) -> FirewallState:
    """The state in `socketfilterfw --getglobalstate`: "Firewall is enabled. (State = 1)"."""
    found = re.search(r"State = (\d)", text)
    return _FIREWALL.get(found[1], FirewallState.UNKNOWN) if found else FirewallState.UNKNOWN


def parse_sntp(text: str) -> float | None:
    """Seconds to add to this clock, in the output of `sntp HOST`: "+0.004 +/- 0.012 HOST ..."."""
    found = re.search(r"([+-]\d+\.\d+) \+/- \d", text)
    return float(found[1]) if found else None
