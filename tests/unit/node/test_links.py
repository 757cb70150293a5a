"""Kinds of links from recorded outputs and from made-up folders of /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.core.cluster import Address
from cluster.node.links import (
    Interface,
    collect,
    linux_kind,
    macos_kind,
    parse_hardware_ports,
    read_addresses,
)

# A Mac Studio, as networksetup prints it.
HARDWARE_PORTS = """
Hardware Port: Ethernet
Device: en0
Ethernet Address: 00:00:00:00:00:01

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 00:00:00:00:00:02

Hardware Port: Wi-Fi
Device: en1
Ethernet Address: 00:00:00:00:00:03

Hardware Port: Thunderbolt 1
Device: en2
Ethernet Address: 00:00:00:00:00:04

Hardware Port: Thunderbolt Ethernet Slot 1
Device: en7
Ethernet Address: 00:00:00:00:00:05

Hardware Port: USB 10/100/1000 LAN
Device: en8
Ethernet Address: 00:00:00:00:00:06

VLAN Configurations
===================
"""


@pytest.mark.parametrize(
    ("interface", "kind"),
    [
        ("en0", "ethernet"), ("bridge0", "thunderbolt"), ("en1", "wifi"), ("en2", "thunderbolt"),
        ("en7", "ethernet"), ("en8", "ethernet"), ("utun3", "other"),
    ],
)  # fmt: skip
def test_macos(interface: str, kind: str) -> None:
    assert macos_kind(interface, parse_hardware_ports(HARDWARE_PORTS)) == kind


def test_no_ports_at_all() -> None:
    assert parse_hardware_ports("") == {}


def interface(root: Path, name: str, kind: str = "1") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "type").write_text(f"{kind}\n")
    return folder


def test_linux(tmp_path: Path) -> None:
    assert linux_kind(interface(tmp_path, "eth0")) == "ethernet"
    assert linux_kind(interface(tmp_path, "tun0", "65534")) == "other"
    assert linux_kind(interface(tmp_path, "veth1a2b")) == "other"
    assert linux_kind(tmp_path / "gone") == "other"
    wifi = interface(tmp_path, "wlan0")
    (wifi / "wireless").mkdir()
    assert linux_kind(wifi) == "wifi"
    bridge = interface(tmp_path, "br0")
    (bridge / "bridge").mkdir()
    assert linux_kind(bridge) == "other"
    thunderbolt = interface(tmp_path, "thunderbolt0")
    (thunderbolt / "device").mkdir()
    driver = tmp_path / "drivers" / "thunderbolt-net"
    driver.mkdir(parents=True)
    (thunderbolt / "device" / "driver").symlink_to(driver)
    assert linux_kind(thunderbolt) == "thunderbolt"


def test_loopback_comes_last_and_link_local_not_at_all() -> None:
    found = collect(
        {
            "lo": Interface(["127.0.0.1", "::1"], 0, 65536),
            "en2": Interface(["169.254.3.4", "fe80::1%en2", "fd00::2"], 40000, 1500),
        },
        lambda name: "thunderbolt",
        {"en2": "rdma_en2", "en3": "rdma_en3"},
    )
    assert found == (
        Address("en2", "169.254.3.4", "thunderbolt", 40000, 1500, "rdma_en2"),
        Address("en2", "fd00::2", "thunderbolt", 40000, 1500, "rdma_en2"),
        Address("lo", "127.0.0.1", "loopback", 0, 65536),
        Address("lo", "::1", "loopback", 0, 65536),
    )


def test_this_machine_has_loopback() -> None:
    assert "loopback" in {address.kind for address in read_addresses()}
