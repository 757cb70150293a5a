"""From facts to findings: each condition with its level and the command that mends it."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import pytest

from cluster.core.cluster import Address, Blas, Versions
from cluster.core.facts import Disk, Facts, Finding, FirewallState, Level, ThunderboltPort
from cluster.node.blas import ADVICE
from cluster.node.findings import of_machine

GIB = 1 << 30
VERSIONS = Versions(3, "0.1.0", "0.32.4", "0.32.2")
LINUX = Facts(
    hostname="box",
    system="Linux 6.8.0",
    chip="A chip",
    cores=16,
    memory_bytes=64 * GIB,
    usable_bytes=57 * GIB,
    available_bytes=60 * GIB,
    locked_limit_bytes=8 << 20,
    blas=Blas("OpenBLAS", "libopenblas.so.0", True, ""),
    versions=VERSIONS,
    python="/usr/bin/python3.12",
    addresses=(Address("eth0", "192.168.1.11", "ethernet"),),
    networks=("192.168.1.0/24", "10.1.0.0/30"),
    disks=(Disk("models", "/var/lib/models", 900 * GIB, True),),
    firewall_state=FirewallState.OFF,
    clock_synchronized=True,
)
PORT = ThunderboltPort("Thunderbolt 1", "en2", 80, "Mac mini")
FREE = ThunderboltPort("Thunderbolt 2", "en3", 120, "")
MAC = replace(
    LINUX,
    system="macOS 26.2",
    blas=Blas("Metal", "", True, ""),
    python="/opt/a python/bin/python3.12",
    addresses=(
        Address("en0", "192.168.1.10", "ethernet"),
        Address("en2", "169.254.1.1", "thunderbolt"),
    ),
    usable_bytes=48 * GIB,
    wired_limit_mb=48 << 10,
    thunderbolt=(PORT, FREE),
    rdma_setting="enabled",
    rdma_devices=("rdma_en2", "rdma_en3"),
    rdma_active=("rdma_en2",),
    firewall="macOS",
    clock_synchronized=None,
    clock_offset=0.01,
)
SLOW = Blas("reference", "", False, ADVICE.format(pip=""))
LINUX_TROUBLE = [
    replace(LINUX, blas=SLOW),
    replace(LINUX, versions=replace(VERSIONS, mlx="none")),
    replace(LINUX, available_bytes=GIB),
    replace(LINUX, rdma_devices=("mlx5_0",), rdma_active=("mlx5_0",)),
    replace(LINUX, disks=(Disk("models", "/var/lib/some models", GIB // 2, True),)),
    replace(LINUX, disks=(Disk("prefixes", "/var/lib/kv", 5 * GIB, True),)),
    replace(LINUX, disks=(Disk("prefixes", "/it's/kv", 5 * GIB, False),)),
    *[
        replace(LINUX, firewall=name, firewall_state=FirewallState.ON)
        for name in ("ufw", "firewalld", "nftables")
    ],
    replace(LINUX, firewall="nftables", firewall_state=FirewallState.ON, networks=()),
    replace(LINUX, multicast_error="ENETUNREACH"),
    replace(LINUX, clock_synchronized=False),
    replace(LINUX, thunderbolt=(ThunderboltPort("0-1", "thunderbolt0", 40, "studio"),)),
]
LINUX_COMMANDS = {
    "apt-get", "scripts/setup", "ps", "head", "echo", "tee", "hf", "du", "install", "ufw",
    "firewall-cmd", "nft", "ip", "timedatectl",
}  # fmt: skip
"""Every program that a mending command for Linux may begin with."""


def trouble(facts: Facts) -> Finding:
    """The one thing that is the matter."""
    found = [f for f in of_machine(facts) if f.level in (Level.WARNING, Level.PROBLEM)]
    assert len(found) == 1, found
    return found[0]


def about(facts: Facts, topic: str) -> list[Finding]:
    return [finding for finding in of_machine(facts) if finding.topic == topic]


@pytest.mark.parametrize("facts", [LINUX, MAC])
def test_a_machine_as_it_should_be(facts: Facts) -> None:
    found = of_machine(facts)
    assert {finding.level for finding in found} <= {Level.OK, Level.NOTE}
    assert {"Machine", "Memory", "Disk", "Thunderbolt", "RDMA", "Firewall", "Local network"} <= {
        finding.topic for finding in found
    }
    assert not any("\n" in finding.text or "\n" in finding.mend for finding in found)


@pytest.mark.parametrize(
    ("facts", "topic", "level", "text", "mend"),
    [
        (LINUX_TROUBLE[0], "Machine", "warning", "slow", "apt-get install libopenblas0-pthread"),
        (LINUX_TROUBLE[1], "Machine", "problem", "not compute", "scripts/setup"),
        (LINUX_TROUBLE[2], "Memory", "warning", "only 1.0 GiB are free", "ps "),
        (LINUX_TROUBLE[3], "Memory", "warning", "8 MiB may be locked", "limits.d"),
        (LINUX_TROUBLE[4], "Disk", "problem", "0.5 GiB free for models", "hf cache prune"),
        (LINUX_TROUBLE[5], "Disk", "warning", "5.0 GiB free for prefixes", "du -sh /var/lib/kv"),
        (LINUX_TROUBLE[6], "Disk", "problem", "can't be written", "install -d"),
        (LINUX_TROUBLE[7], "Firewall", "warning", "ufw is on", "ufw allow from 10.1.0.0/30"),
        (LINUX_TROUBLE[8], "Firewall", "warning", "firewalld is on", "--add-source=10.1.0.0/30"),
        (LINUX_TROUBLE[9], "Firewall", "warning", "nftables is on", "saddr 10.1.0.0/30 accept"),
        (LINUX_TROUBLE[11], "Local network", "warning", "ENETUNREACH", "224.0.0.0/4 dev eth0"),
        (LINUX_TROUBLE[12], "Clock", "warning", "no time server", "set-ntp true"),
        (LINUX_TROUBLE[13], "Thunderbolt", "warning", "no IPv4", "ip link set thunderbolt0 up"),
        (
            replace(MAC, wired_limit_mb=62 << 10), "Memory", "warning", "may hang",
            "iogpu.wired_limit_mb=0",
        ),
        (
            replace(MAC, bridged=("en2", "vmenet0")), "Thunderbolt", "warning", "holds en2:",
            "deploy/thunderbolt/setup --apply",
        ),
        (
            replace(MAC, addresses=()), "Thunderbolt", "warning", "no IPv4 address",
            "deploy/thunderbolt/setup --apply",
        ),
        (
            replace(MAC, thunderbolt=(replace(PORT, gigabits=20), FREE)), "Thunderbolt", "warning",
            "at 20 Gb/s: a cable", "",
        ),
        (
            replace(MAC, rdma_devices=(), rdma_active=(), rdma_setting="disabled"), "RDMA",
            "warning", "is off", "rdma_ctl enable",
        ),
        (
            replace(MAC, rdma_devices=(), rdma_active=(), rdma_setting=""), "RDMA",
            "warning", "is off", "rdma_ctl enable",
        ),
        (
            replace(MAC, rdma_devices=(), rdma_active=()), "RDMA", "warning", "no device",
            "shutdown -r now",
        ),
        (
            replace(MAC, firewall_state=FirewallState.ON), "Firewall", "warning", "let /opt/a",
            "--unblockapp '/opt/a python/bin/python3.12'",
        ),
        (
            replace(MAC, firewall_state=FirewallState.CLOSED), "Firewall", "problem",
            "refuses all", "--setblockall off",
        ),
        (
            replace(MAC, multicast_error="EHOSTUNREACH"), "Local network", "problem",
            "does not let this program", "Privacy_LocalNetwork",
        ),
        (replace(MAC, multicast_error="ENETUNREACH"), "Local network", "warning", "no way", ""),
        (replace(MAC, clock_offset=3.0), "Clock", "warning", "3.0 s behind", "sntp -sS"),
        (replace(MAC, clock_offset=-90.0), "Clock", "problem", "90.0 s ahead", "sntp -sS"),
    ],
)  # fmt: skip
def test_trouble(facts: Facts, topic: str, level: str, text: str, mend: str) -> None:
    found = trouble(facts)
    assert (found.topic, found.level) == (topic, level)
    assert text in found.text
    assert mend in found.mend
    assert bool(mend) == bool(found.mend)


@pytest.mark.parametrize("facts", LINUX_TROUBLE)
def test_a_mending_command_for_linux_is_one_that_a_shell_takes(facts: Facts) -> None:
    mend = trouble(facts).mend
    subprocess.run(["bash", "-n", "-c", mend], check=True)
    line = shlex.split(mend, comments=True)
    begins = [0, *[i + 1 for i, word in enumerate(line) if word in ("&&", "|")]]
    programs = {line[i + 1] if line[i] == "sudo" else line[i] for i in begins}
    assert programs <= LINUX_COMMANDS


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (replace(MAC, system="macOS 15.6", rdma_devices=(), rdma_active=()), "macOS 26.2"),
        (replace(MAC, system="macOS 26.1", rdma_devices=(), rdma_active=()), "macOS 26.2"),
        (replace(MAC, rdma_active=()), "no port is up"),
        (
            # Enabled, and yet there will never be a device: the hardware can't.
            replace(
                MAC, rdma_devices=(), rdma_active=(),
                thunderbolt=(replace(PORT, gigabits=40), replace(FREE, gigabits=40)),
            ),
            "needs Thunderbolt 5",
        ),
        (LINUX, "no RDMA device"),
    ],
)  # fmt: skip
def test_nobody_is_sent_to_recovery_for_nothing(facts: Facts, text: str) -> None:
    (found,) = about(facts, "RDMA")
    assert found.level is Level.NOTE
    assert text in found.text
    assert "rdma_ctl" not in found.mend


def test_more_memory_is_offered_where_there_is_much() -> None:
    (found,) = about(replace(MAC, wired_limit_mb=0), "Memory")
    assert found.level is Level.NOTE
    assert found.mend == f"sudo sysctl iogpu.wired_limit_mb={56 << 10}"
    small = replace(MAC, memory_bytes=16 * GIB, usable_bytes=10 * GIB, wired_limit_mb=0)
    assert about(small, "Memory")[0].level is Level.OK


def test_no_cable_and_what_could_not_be_asked_are_notes() -> None:
    (found,) = about(replace(MAC, thunderbolt=(FREE,)), "Thunderbolt")
    assert (found.level, "none of 1 sockets" in found.text) == (Level.NOTE, True)
    facts = replace(
        LINUX, unanswered=("timedatectl",), clock_synchronized=None,
        firewall_state=FirewallState.UNKNOWN,
    )  # fmt: skip
    notes = [finding for finding in of_machine(facts) if finding.level is Level.NOTE]
    assert {"Machine", "Clock", "Firewall"} <= {finding.topic for finding in notes}
