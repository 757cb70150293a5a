"""Recorded outputs taken apart; what this machine answers; that nothing can hold it up."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path

import pytest

from cluster.core.facts import Facts, FirewallState, ThunderboltPort
from cluster.node import linux, macos
from cluster.node.hardware import ask
from cluster.node.links import parse_hardware_ports
from cluster.node.survey import (
    LINUX,
    MACOS,
    look_at_disk,
    multicast_error,
    survey,
    with_linux,
    with_macos,
)

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text().strip()


MACOS_ANSWERS = {
    "ports": recorded("hardwareports.txt"),
    "thunderbolt": recorded("thunderbolt5.json"),
    "interfaces": recorded("ifconfig.txt"),
    "rdma": "enabled",
    "devices": recorded("ibv_devinfo.txt"),
    "firewall": "Firewall is enabled. (State = 1)",
    "wired": "0",
    "clock": "+0.004321 +/- 0.012345 time.apple.com 192.0.2.123",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return survey(tmp_path_factory.mktemp("models"))


def test_thunderbolt_5_with_a_machine_behind_a_hub_and_a_disk() -> None:
    ports = parse_hardware_ports(recorded("hardwareports.txt"))
    assert macos.parse_thunderbolt(recorded("thunderbolt5.json"), ports) == (
        ThunderboltPort("Thunderbolt 1", "en2", 80, "Mac mini"),
        ThunderboltPort("Thunderbolt 2", "en3", 80, "MacBook Pro"),
        ThunderboltPort("Thunderbolt 3", "en4", 40, ""),
    )


def test_thunderbolt_4_and_ports_without_an_interface() -> None:
    assert macos.parse_thunderbolt(recorded("thunderbolt4.json"), {}) == (
        ThunderboltPort("Thunderbolt 1", "", 40, "Mac mini"),
        ThunderboltPort("Thunderbolt 2", "", 40, ""),
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "no json", "[]", "{}", '{"SPThunderboltDataType": 3}',
        '{"SPThunderboltDataType": [1, {}, {"receptacle_1_tag": "x"}]}',
    ],
)  # fmt: skip
def test_no_thunderbolt_at_all(text: str) -> None:
    assert macos.parse_thunderbolt(text, {}) == ()


def test_a_tree_of_hubs_without_end_is_left_alone() -> None:
    item: dict[str, object] = {"_name": "Mac mini", "domain_uuid_key": "x"}
    for _ in range(50):
        item = {"_items": [item]}
    bus = {"receptacle_1_tag": {"receptacle_id_key": "1"}, "_items": [item]}
    (port,) = macos.parse_thunderbolt(json.dumps({"SPThunderboltDataType": [bus]}), {})
    assert port == ThunderboltPort("Thunderbolt 1", "", 0, "")


def test_bridge_rdma_firewall_and_clock_of_macos() -> None:
    assert macos.parse_bridge_members(recorded("ifconfig.txt")) == ("en2", "en3", "en4")
    assert macos.parse_rdma_status("RDMA is Disabled\n") == "disabled"
    assert macos.parse_rdma_status("sh: rdma_ctl: command not found") == ""
    devices = macos.parse_ibv_devinfo(recorded("ibv_devinfo.txt"))
    assert devices == (("rdma_en2", "rdma_en3"), ("rdma_en2",))
    assert macos.parse_ibv_devinfo("No IB devices found") == ((), ())
    states = ("Firewall is disabled. (State = 0)", "(State = 1)", "(State = 2)", "(State = 7)", "")
    assert [macos.parse_firewall(text).value for text in states] == [
        "off", "on", "closed", "unknown", "unknown",
    ]  # fmt: skip
    assert macos.parse_sntp(MACOS_ANSWERS["clock"]) == 0.004321
    assert macos.parse_sntp("-12.5 +/- 0.01 host") == -12.5
    assert macos.parse_sntp("sntp: Exchange failed: Timeout") is None


def test_macos_answers_become_facts(here: Facts) -> None:
    assert set(MACOS_ANSWERS) == set(MACOS)
    facts = with_macos(here, MACOS_ANSWERS)
    assert [port.interface for port in facts.thunderbolt] == ["en2", "en3", "en4"]
    assert facts.bridged == ("en2", "en3", "en4")
    assert facts.rdma_setting == "enabled"
    assert facts.rdma_active == ("rdma_en2",)
    assert (facts.firewall, facts.firewall_state) == ("macOS", FirewallState.ON)
    assert facts.clock_offset == 0.004321
    silent = with_macos(here, dict.fromkeys(MACOS, ""))
    assert (silent.thunderbolt, silent.rdma_setting, silent.clock_offset) == ((), "", None)


def test_clock_and_packet_filter_of_linux() -> None:
    shown = "Timezone=Etc/UTC\nNTP=yes\nNTPSynchronized={}\nRTCTimeUSec=x"
    assert linux.parse_timedatectl(shown.format("yes")) is True
    assert linux.parse_timedatectl(shown.format("no")) is False
    assert linux.parse_timedatectl("Failed to connect to bus: Host is down") is None
    assert linux.parse_nft(recorded("nft.txt")) is FirewallState.ON
    assert linux.parse_nft(recorded("nft.txt").replace("drop", "accept")) is FirewallState.OFF
    assert linux.parse_nft("") is FirewallState.UNKNOWN


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_files_of_linux(here: Facts, tmp_path: Path) -> None:
    """A made-up /sys after the kernel's documentation: a machine, a dock, RDMA up and down."""
    answers = dict.fromkeys(LINUX, "")
    bare = with_linux(here, answers, tmp_path)
    assert (bare.thunderbolt, bare.rdma_devices, bare.firewall) == ((), (), "")
    links = tmp_path / "sys/bus/thunderbolt/devices"
    for name, value in {
        "0-1/rx_speed": "20.0 Gb/s", "0-1/rx_lanes": "2", "0-1/device_name": "studio",
        "0-3/rx_speed": "20.0 Gb/s", "0-3/authorized": "1", "0-3/device_name": "A dock",
    }.items():  # fmt: skip
        write(links / name, f"{value}\n")
    (links / "0-1.0/net/thunderbolt0").mkdir(parents=True)
    ports = tmp_path / "sys/class/infiniband"
    write(ports / "mlx5_0/ports/1/state", "4: ACTIVE\n")
    write(ports / "mlx5_1/ports/1/state", "1: DOWN\n")
    write(tmp_path / "etc/ufw/ufw.conf", "# /etc/ufw/ufw.conf\nENABLED=no\nLOGLEVEL=low\n")
    facts = with_linux(here, answers | {"nftables": recorded("nft.txt")}, tmp_path)
    assert facts.thunderbolt == (ThunderboltPort("0-1", "thunderbolt0", 40, "studio"),)
    assert (facts.rdma_devices, facts.rdma_active) == (("mlx5_0", "mlx5_1"), ("mlx5_0",))
    assert (facts.firewall, facts.firewall_state) == ("nftables", FirewallState.ON)
    facts = with_linux(here, answers | {"firewalld": "running"}, tmp_path)
    assert facts.firewall == "firewalld"
    write(tmp_path / "etc/ufw/ufw.conf", "ENABLED=yes\n")
    assert with_linux(here, answers, tmp_path).firewall == "ufw"


def test_this_machine(here: Facts) -> None:
    assert 0 < here.available_bytes <= here.memory_bytes
    assert here.system.startswith(platform.system().replace("Darwin", "macOS"))
    assert Path(here.python).is_file()
    assert here.disks[0].writable
    assert here.locked_limit_bytes >= -1
    assert here == Facts(**{f.name: getattr(here, f.name) for f in dataclasses.fields(here)})


def test_every_answer_that_does_not_come_is_named_and_nothing_waits_for_it(tmp_path: Path) -> None:
    facts = survey(tmp_path, tmp_path / "kv", ask=lambda *command: "")
    names = {command[0] for command in (MACOS if facts.system[:5] == "macOS" else LINUX).values()}
    assert set(facts.unanswered) <= names
    assert "firewall-cmd" not in facts.unanswered
    assert [disk.use for disk in facts.disks] == ["models", "prefixes"]


def test_a_command_has_a_deadline() -> None:
    begun = time.monotonic()
    assert ask("sleep", "60", seconds=0.05) == ""
    assert time.monotonic() - begun < 5


def test_a_disk_that_is_not_there_yet(tmp_path: Path) -> None:
    disk = look_at_disk("prefixes", tmp_path / "not" / "yet")
    assert disk.writable
    assert disk.free_bytes > 0
    (tmp_path / "file").write_text("")
    assert not look_at_disk("models", tmp_path / "file").writable


def test_mdns_needs_a_way_from_one_address() -> None:
    """None for multicast in the routing table, which this machine may not have."""
    gone = "192.0.2.1"  # is nobody's (RFC 5737)
    assert multicast_error([], send=False) == "ENETUNREACH"
    assert multicast_error([gone], send=False) == "EADDRNOTAVAIL"
    assert multicast_error([gone, "127.0.0.1"], send=False) == ""
