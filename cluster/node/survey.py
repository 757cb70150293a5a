"""Everything `tandem doctor` wants to know of this machine, asked at once, each with a deadline.

Nothing is changed, and nothing is sent but, on macOS, one mDNS question and one to a time server.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil

from cluster.core.cluster import Address
from cluster.core.facts import Disk, Facts, FirewallState
from cluster.core.versions import versions
from cluster.node import linux, macos
from cluster.node.blas import find_blas
from cluster.node.hardware import ask, read_hardware
from cluster.node.links import parse_hardware_ports, read_addresses

_MDNS = ("224.0.0.251", 5353)
_QUESTION = b"\0\0\0\0\0\1\0\0\0\0\0\0\x09_services\x07_dns-sd\x04_udp\x05local\0\0\x0c\0\1"
"""A standard query (RFC 6762) for the kinds of services there are: one question, no answers."""

_FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
MACOS = {
    "ports": ("networksetup", "-listallhardwareports"),
    "thunderbolt": ("system_profiler", "SPThunderboltDataType", "-json"),
    "interfaces": ("ifconfig",),
    "rdma": ("sh", "-c", "rdma_ctl status 2>&1 || :"),  # whatever it exits with
    "devices": ("ibv_devinfo",),
    "firewall": (_FIREWALL, "--getglobalstate"),
    "wired": ("sysctl", "-n", "iogpu.wired_limit_mb"),
    "clock": ("sntp", "-t", "2", "time.apple.com"),
}
LINUX = {
    "clock": ("timedatectl", "show"),
    "firewalld": ("firewall-cmd", "--state"),
    "nftables": ("nft", "list", "ruleset"),
}
_OPTIONAL = {"firewall-cmd", "nft", "sh", "ibv_devinfo"}
"""Tools whose silence says that there is no such thing here."""

Ask = Callable[..., str]


def survey(models: Path, prefixes: Path | None = None, *, ask: Ask = ask) -> Facts:
    """This machine; `models` is the folder of downloaded models, `prefixes` that of --kv-dir.

    Raises BadConfiguration when TANDEM_BLAS names a file that does not exist.
    """
    darwin = platform.system() == "Darwin"
    commands = MACOS if darwin else LINUX
    with ThreadPoolExecutor(max_workers=len(commands) + 2) as pool:
        looking, addressing = pool.submit(read_hardware), pool.submit(read_addresses)
        asked = {name: pool.submit(ask, *command) for name, command in commands.items()}
        hardware, addresses = looking.result(), addressing.result()
        answers = {name: future.result() for name, future in asked.items()}
    folders = [("models", models)] + ([("prefixes", prefixes)] if prefixes else [])
    facts = Facts(
        hostname=hardware.hostname,
        system=hardware.system,
        chip=hardware.chip,
        cores=hardware.cores,
        memory_bytes=hardware.memory_bytes,
        usable_bytes=hardware.usable_bytes,
        available_bytes=min(psutil.virtual_memory().available, hardware.memory_bytes),
        locked_limit_bytes=_locked_limit(),
        blas=find_blas(),
        versions=versions(),
        python=os.path.realpath(sys.executable),
        addresses=addresses,
        networks=_networks(addresses),
        disks=tuple(look_at_disk(use, path) for use, path in folders),
        multicast_error=multicast_error(_outside(addresses), send=darwin),
        unanswered=tuple(
            commands[name][0] for name, answer in answers.items() if not answer
            and commands[name][0] not in _OPTIONAL
        ),
    )  # fmt: skip
    return with_macos(facts, answers) if darwin else with_linux(facts, answers)


def with_macos(facts: Facts, answers: Mapping[str, str]) -> Facts:
    """`facts` and what macOS's tools have answered, by the names in `MACOS`."""
    devices, active = macos.parse_ibv_devinfo(answers["devices"])
    return replace(
        facts,
        thunderbolt=macos.parse_thunderbolt(
            answers["thunderbolt"], parse_hardware_ports(answers["ports"])
        ),
        bridged=macos.parse_bridge_members(answers["interfaces"]),
        rdma_setting=macos.parse_rdma_status(answers["rdma"]),
        rdma_devices=devices,
        rdma_active=active,
        firewall="macOS",
        firewall_state=macos.parse_firewall(answers["firewall"]),
        wired_limit_mb=int(answers["wired"]) if answers["wired"].isdecimal() else 0,
        clock_offset=macos.parse_sntp(answers["clock"]),
    )


def with_linux(facts: Facts, answers: Mapping[str, str], root: Path = Path("/")) -> Facts:
    """`facts`, what Linux's tools have answered (by the names in `LINUX`) and its files say."""
    devices, active = linux.read_rdma(root / "sys/class/infiniband")
    if linux.read_ufw(root / "etc/ufw/ufw.conf"):
        firewall, state = "ufw", FirewallState.ON
    elif answers["firewalld"] == "running":
        firewall, state = "firewalld", FirewallState.ON
    else:
        state = linux.parse_nft(answers["nftables"])
        firewall = "" if state is FirewallState.UNKNOWN else "nftables"
    return replace(
        facts,
        thunderbolt=linux.read_thunderbolt(root / "sys/bus/thunderbolt/devices"),
        rdma_devices=devices,
        rdma_active=active,
        firewall=firewall,
        firewall_state=state,
        clock_synchronized=linux.parse_timedatectl(answers["clock"]),
    )


def look_at_disk(use: str, path: Path) -> Disk:
    """The disk that `path` is on, or would be once it is made."""
    there = path.absolute()
    while not os.path.exists(there) and there != there.parent:  # of the Path itself it may raise
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = 0
    return Disk(use, str(path), free, os.access(there, os.W_OK | os.X_OK) and os.path.isdir(there))


def multicast_error(hosts: Sequence[str], *, send: bool) -> str:
    """The name of the errno that mDNS would meet from each of `hosts`, IPv4 addresses of this
    machine; "" if there is a way from one of them.

    From a named address there is one without any route for multicast, and so does mDNS send. With
    `send` one question goes out: macOS refuses a program without the permission to use the local
    network only then. Without it just the way there is looked up.
    """
    errors = [_multicast_error(host, send=send) for host in hosts] or ["ENETUNREACH"]
    return "" if "" in errors else errors[0]


def _multicast_error(host: str, *, send: bool) -> str:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
            probe.connect(_MDNS)
            if send:
                probe.send(_QUESTION)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def _outside(addresses: Iterable[Address]) -> list[str]:
    """Those on which other machines may be, IPv4."""
    return [a.ip for a in addresses if a.kind != "loopback" and ":" not in a.ip]


def _networks(addresses: tuple[Address, ...]) -> tuple[str, ...]:
    masks = {a.address: a.netmask for each in psutil.net_if_addrs().values() for a in each}
    found = [
        str(ipaddress.ip_interface(f"{ip}/{masks[ip]}").network)
        for ip in _outside(addresses)
        if masks.get(ip)
    ]
    return tuple(dict.fromkeys(found))


def _locked_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return -1 if soft == resource.RLIM_INFINITY else soft
