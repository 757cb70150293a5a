"""The addresses of a machine, and over what kind of link each of them goes."""

from __future__ import annotations

import ipaddress
import platform
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.core.cluster import Address
from cluster.node.hardware import ask
from cluster.node.rdma import linux_devices, macos_devices

_ETHERNET = "1"
"""ARPHRD_ETHER in /sys/class/net/*/type (linux/if_arp.h)."""


class Interface(NamedTuple):
    """One that is up."""

    ips: list[str]
    speed_mbps: int
    """10^6 bits per second; 0 when it does not say."""
    mtu: int


def read_addresses() -> tuple[Address, ...]:
    """Every usable address of this machine, loopback last."""
    if platform.system() == "Darwin":
        ports = parse_hardware_ports(ask("networksetup", "-listallhardwareports"))
        rdma = macos_devices(ask("ibv_devinfo"))
        return collect(_interfaces(), lambda name: macos_kind(name, ports), rdma)
    rdma = linux_devices()
    return collect(_interfaces(), lambda name: linux_kind(Path("/sys/class/net") / name), rdma)


def collect(
    interfaces: Mapping[str, Interface], kind: Callable[[str], str], rdma: Mapping[str, str]
) -> tuple[Address, ...]:
    """Addresses of `interfaces`, with the RDMA device of each (`rdma`, by interface); link-local
    IPv6 is left out, as no peer can use it without naming its own interface."""
    found = []
    for name, (ips, speed, mtu) in sorted(interfaces.items()):
        for text in ips:
            ip = ipaddress.ip_address(text.partition("%")[0])
            if ip.is_loopback:
                found.append(Address(name, str(ip), "loopback", speed, mtu))
            elif not (ip.version == 6 and ip.is_link_local):
                device = rdma.get(name, "")
                found.append(Address(name, str(ip), kind(name), speed, mtu, device))
    return tuple(sorted(found, key=lambda address: address.kind == "loopback"))


def parse_hardware_ports(text: str) -> dict[str, str]:
    """Device -> hardware port in the output of `networksetup -listallhardwareports`."""
    pairs = re.findall(r"^Hardware Port: (.+)\nDevice: (\S+)$", text, re.MULTILINE)
    return {device: port for port, device in pairs}


def macos_kind(interface: str, ports: Mapping[str, str]) -> str:
    """Kind of link of a macOS interface, from the name of its hardware port."""
    port = ports.get(interface, "").lower()
    if "thunderbolt ethernet" in port:
        return "ethernet"
    if "thunderbolt" in port:
        return "thunderbolt"
    if "wi-fi" in port or "airport" in port:
        return "wifi"
    if "ethernet" in port or "lan" in port:
        return "ethernet"
    return "other"


def linux_kind(folder: Path) -> str:
    """Kind of link of a Linux interface, from its folder below /sys/class/net."""
    if (folder / "wireless").exists() or (folder / "phy80211").exists():
        return "wifi"
    if (folder / "device" / "driver").resolve().name == "thunderbolt-net":
        return "thunderbolt"
    if (folder / "bridge").exists() or folder.name.startswith(("veth", "docker", "virbr")):
        return "other"
    try:
        kind = (folder / "type").read_text().strip()
    except OSError:
        return "other"
    return "ethernet" if kind == _ETHERNET else "other"


def _interfaces() -> dict[str, Interface]:
    """The interfaces that are up, by name."""
    up = {name: state for name, state in psutil.net_if_stats().items() if state.isup}
    internet = (socket.AF_INET, socket.AF_INET6)
    return {
        name: Interface(
            [a.address for a in addresses if a.family in internet],
            max(up[name].speed, 0),
            up[name].mtu,
        )
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }
