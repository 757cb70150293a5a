"""From the facts of one machine to findings, each with the command that mends it. Pure.

What is found in several machines side by side is in `cluster_findings.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from cluster.core.facts import Disk, Facts, Finding, FirewallState, Level
from cluster.node.thunderbolt import rdma, thunderbolt

OK, NOTE, WARNING, PROBLEM = Level

GIB = 1 << 30
_LITTLE_DISK, _NO_DISK = 20 * GIB, 1 * GIB
CLOCK_SECONDS = 2.0
"""Logs of machines that differ by more can't be read side by side."""
CERTIFICATE_SECONDS = 60.0
"""Certificates made just now are not yet valid on a clock that is further behind."""
_LEFT_TO_MACOS = 8 * GIB


def of_machine(facts: Facts) -> list[Finding]:
    """Everything about one machine, by topic."""
    return [
        *machine(facts),
        *memory(facts),
        *disks(facts.disks),
        *thunderbolt(facts),
        *rdma(facts),
        *firewall(facts),
        *multicast(facts),
        *clock(facts),
        *unanswered(facts),
    ]


def machine(facts: Facts) -> list[Finding]:
    """Versions and the matrix library."""
    topic, own = "Machine", facts.versions
    found = [Finding(topic, OK, f"{facts.hostname}: {facts.chip}, {facts.cores} cores")]
    said = f"{facts.system}, tandem {own.tandem}, mlx {own.mlx}, mlx-lm {own.mlx_lm}"
    if "none" in (own.mlx, own.mlx_lm):
        text = f"{said}: this machine can coordinate, but not compute"
        found.append(Finding(topic, PROBLEM, text, "scripts/setup"))
    else:
        found.append(Finding(topic, OK, said))
    if facts.blas.fast:
        found.append(Finding(topic, OK, f"matrix library: {facts.blas.name}"))
    else:
        text = f"matrix library: {facts.blas.name}, slow; {facts.blas.advice}"
        mend = "sudo apt-get install libopenblas0-pthread"
        found.append(Finding(topic, WARNING, text, f"{mend}  # Debian, Ubuntu"))
    return found


def memory(facts: Facts) -> list[Finding]:
    """What engines may use, what of it is free, and what may be locked."""
    topic, limit = "Memory", facts.wired_limit_mb << 20
    macos = facts.system.startswith("macOS")
    text = f"engines may use {gib(facts.usable_bytes)} of {gib(facts.memory_bytes)} GiB"
    if limit > facts.memory_bytes - _LEFT_TO_MACOS // 2:
        text += ", which leaves too little to macOS: it may hang"
        found = [Finding(topic, WARNING, text, "sudo sysctl iogpu.wired_limit_mb=0")]
    elif macos and not limit and facts.memory_bytes >= 4 * _LEFT_TO_MACOS:
        most = facts.memory_bytes - _LEFT_TO_MACOS
        text += f" (macOS's default); with a higher wired limit {gib(most)}, until a restart"
        found = [Finding(topic, NOTE, text, f"sudo sysctl iogpu.wired_limit_mb={most >> 20}")]
    else:
        found = [Finding(topic, OK, text)]
    if facts.available_bytes < facts.usable_bytes // 2:
        text = f"only {gib(facts.available_bytes)} GiB are free now: close what uses the rest"
        mend = "top -o mem" if macos else "ps -eo rss,pid,comm --sort=-rss | head"
        found.append(Finding(topic, WARNING, text, mend))
    if facts.rdma_devices and not macos and facts.locked_limit_bytes >= 0:
        text = f"RDMA locks memory, and only {facts.locked_limit_bytes >> 20} MiB may be locked"
        mend = "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/tandem.conf"
        found.append(Finding(topic, WARNING, text, mend))
    return found


def disks(found: Iterable[Disk]) -> list[Finding]:
    """Room for models, and for prefixes where they are kept."""
    return [_disk(disk) for disk in found]


def _disk(disk: Disk) -> Finding:
    place = shlex.quote(disk.path)
    text = f"{gib(disk.free_bytes)} GiB free for {disk.use} in {disk.path}"
    if not disk.writable:
        mend = f'sudo install -d -o "$(id -un)" -m 700 {place}'
        return Finding("Disk", PROBLEM, f"{disk.path} ({disk.use}) can't be written to", mend)
    if disk.free_bytes < _LITTLE_DISK:
        level = PROBLEM if disk.free_bytes < _NO_DISK else WARNING
        mend = "hf cache prune && hf cache ls" if disk.use == "models" else f"du -sh {place}"
        return Finding("Disk", level, text, mend)
    return Finding("Disk", OK, text)


def firewall(facts: Facts) -> list[Finding]:
    """Whether other machines get in. Engines take free ports, so single ones are no help."""
    topic, state, name = "Firewall", facts.firewall_state, facts.firewall
    if name == "macOS":
        tool = "/usr/libexec/ApplicationFirewall/socketfilterfw"
        python = shlex.quote(facts.python)
        if state is FirewallState.CLOSED:
            text = "macOS's firewall refuses all connections from outside"
            return [Finding(topic, PROBLEM, text, f"sudo {tool} --setblockall off")]
        if state is FirewallState.ON:
            text = f"macOS's firewall is on: it has to let {facts.python} in"
            mend = f"sudo {tool} --add {python} && sudo {tool} --unblockapp {python}"
            return [Finding(topic, WARNING, text, mend)]
    elif state is FirewallState.ON:
        text = f"{name} is on: it has to let in the machines of the cluster, and mDNS (5353/udp)"
        return [Finding(topic, WARNING, text, _let_in(name, facts.networks))]
    if state is FirewallState.UNKNOWN:
        return [Finding(topic, NOTE, "no firewall was found; not all can be seen by a user")]
    return [Finding(topic, OK, f"{name}: nothing is refused")]


def _let_in(name: str, networks: Sequence[str]) -> str:
    """Commands that open a Linux firewall to the networks of this machine."""
    networks = [shlex.quote(network) for network in networks]
    if name == "ufw":
        rules = [f"sudo ufw allow from {network}" for network in networks]
        return " && ".join([*rules, "sudo ufw allow 5353/udp"])
    if name == "firewalld":
        zone = "sudo firewall-cmd --permanent --zone=trusted --add-source="
        return " && ".join([*(zone + each for each in networks), "sudo firewall-cmd --reload"])
    rules = [
        f"sudo nft insert rule inet filter input ip saddr {network} accept" for network in networks
    ]
    return " && ".join(rules) or "sudo nft list ruleset"


def let_mdns_in(facts: Facts) -> str:
    """The command that opens a machine's firewall to mDNS; empty when none is in its way."""
    if facts.firewall_state not in (FirewallState.ON, FirewallState.CLOSED):
        return ""
    match facts.firewall:
        case "ufw":
            return "sudo ufw allow 5353/udp"
        case "firewalld":
            mend = "sudo firewall-cmd --permanent --add-service=mdns"
            return f"{mend} && sudo firewall-cmd --reload"
        case "nftables":
            return "sudo nft insert rule inet filter input udp dport 5353 accept"
        case _:
            return next((found.mend for found in firewall(facts)), "")


def multicast(facts: Facts) -> list[Finding]:
    """Whether mDNS can leave this machine; `of_pairs` knows whether it arrives."""
    topic, error = "Local network", facts.multicast_error
    if not error:
        return [Finding(topic, OK, "mDNS has a way out")]
    if facts.system.startswith("macOS") and error == "EHOSTUNREACH":
        text = "macOS does not let this program use the local network"
        pane = "x-apple.systempreferences:com.apple.preference.security?Privacy_LocalNetwork"
        return [Finding(topic, PROBLEM, text, f"open '{pane}'")]
    text = f"mDNS has no way out ({error}): machines must be named, with --join and --nodes"
    first = next((a.interface for a in facts.addresses if a.kind != "loopback"), "")
    mend = f"sudo ip route add 224.0.0.0/4 dev {shlex.quote(first)}" if first else ""
    return [Finding(topic, WARNING, text, "" if facts.system.startswith("macOS") else mend)]


def clock(facts: Facts) -> list[Finding]:
    """Whether the time of logs and certificates can be trusted."""
    topic, offset = "Clock", facts.clock_offset
    if offset is not None and abs(offset) > CLOCK_SECONDS:
        level = PROBLEM if abs(offset) > CERTIFICATE_SECONDS else WARNING
        text = f"the clock is {abs(offset):.1f} s {'behind' if offset > 0 else 'ahead'}"
        return [Finding(topic, level, text, set_clock(facts))]
    if facts.clock_synchronized is False:
        text = "the clock follows no time server"
        return [Finding(topic, WARNING, text, set_clock(facts))]
    if offset is None and facts.clock_synchronized is None:
        return [Finding(topic, NOTE, "whether the clock follows a time server can't be asked")]
    return [Finding(topic, OK, "the clock follows a time server")]


def set_clock(facts: Facts) -> str:
    """The command that sets a machine's clock by a time server."""
    if facts.system.startswith("macOS"):
        return "sudo sntp -sS time.apple.com"
    return "sudo timedatectl set-ntp true"


def unanswered(facts: Facts) -> list[Finding]:
    """What could not be asked."""
    if not facts.unanswered:
        return []
    names = ", ".join(facts.unanswered)
    return [Finding("Machine", NOTE, f"missing, or no answer from: {names}")]


def gib(count: int) -> str:
    """Bytes for people, without the unit."""
    amount = count / GIB
    return f"{amount:.0f}" if amount >= 10 else f"{amount:.1f}"
