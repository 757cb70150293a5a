"""From the facts of machines to findings, each with the command that mends it. Pure.

`of_machine` is about one machine, `of_nodes` about those of a cluster, `of_pairs` about what they
have measured towards each other.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from cluster.core.cluster import NodeDescription, Versions
from cluster.core.facts import Disk, Facts, Finding, FirewallState, Level, Pair
from cluster.node.thunderbolt import rdma, thunderbolt

OK, NOTE, WARNING, PROBLEM = Level

GIB = 1 << 30
_LITTLE_DISK, _NO_DISK = 20 * GIB, 1 * GIB
_CLOCK_SECONDS = 2.0
"""Logs of machines that differ by more can't be read side by side."""
_CERTIFICATE_SECONDS = 60.0
"""Certificates made just now are not yet valid on a clock that is further behind."""
_LEFT_TO_MACOS = 8 * GIB
_SLOW_MICROSECONDS = {"thunderbolt": 1_000.0, "ethernet": 2_000.0}
_SLOW_GIGABITS = {"thunderbolt": 8.0, "ethernet": 0.8}
"""Less than this over a link of that kind, and something is wrong with it."""


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
    text = f"engines may use {_gib(facts.usable_bytes)} of {_gib(facts.memory_bytes)} GiB"
    if limit > facts.memory_bytes - _LEFT_TO_MACOS // 2:
        text += ", which leaves too little to macOS: it may hang"
        found = [Finding(topic, WARNING, text, "sudo sysctl iogpu.wired_limit_mb=0")]
    elif macos and not limit and facts.memory_bytes >= 4 * _LEFT_TO_MACOS:
        most = facts.memory_bytes - _LEFT_TO_MACOS
        text += f" (macOS's default); with a higher wired limit {_gib(most)}, until a restart"
        found = [Finding(topic, NOTE, text, f"sudo sysctl iogpu.wired_limit_mb={most >> 20}")]
    else:
        found = [Finding(topic, OK, text)]
    if facts.available_bytes < facts.usable_bytes // 2:
        text = f"only {_gib(facts.available_bytes)} GiB are free now: close what uses the rest"
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
    text = f"{_gib(disk.free_bytes)} GiB free for {disk.use} in {disk.path}"
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
    mend = f"sudo ip route add 224.0.0.0/4 dev {first}" if first else ""
    return [Finding(topic, WARNING, text, "" if facts.system.startswith("macOS") else mend)]


def clock(facts: Facts) -> list[Finding]:
    """Whether the time of logs and certificates can be trusted."""
    topic, offset = "Clock", facts.clock_offset
    if offset is not None and abs(offset) > _CLOCK_SECONDS:
        level = PROBLEM if abs(offset) > _CERTIFICATE_SECONDS else WARNING
        text = f"the clock is {abs(offset):.1f} s {'behind' if offset > 0 else 'ahead'}"
        return [Finding(topic, level, text, "sudo sntp -sS time.apple.com")]
    if facts.clock_synchronized is False:
        text = "the clock follows no time server"
        return [Finding(topic, WARNING, text, "sudo timedatectl set-ntp true")]
    if offset is None and facts.clock_synchronized is None:
        return [Finding(topic, NOTE, "whether the clock follows a time server can't be asked")]
    return [Finding(topic, OK, "the clock follows a time server")]


def unanswered(facts: Facts) -> list[Finding]:
    """What could not be asked."""
    if not facts.unanswered:
        return []
    names = ", ".join(facts.unanswered)
    return [Finding("Machine", NOTE, f"missing, or no answer from: {names}")]


def of_nodes(nodes: Iterable[NodeDescription], own: Versions) -> list[Finding]:
    """The nodes of a running cluster; `own` are the versions of this machine."""
    found = []
    for node in nodes:
        where = f"{node.hostname} ({node.agent_address})"
        if differences := own.differences(node.versions):
            text = f"{where} runs other versions: {'; '.join(differences)}"
            found.append(Finding("Cluster", PROBLEM, text, "git pull && scripts/setup  # on both"))
        elif not node.blas.fast:
            text = f"{where} computes slowly: {node.blas.advice}"
            found.append(Finding("Cluster", WARNING, text))
        else:
            size = _gib(node.usable_bytes)
            text = f"{where}: {node.system}, same versions, {size} GiB for engines"
            found.append(Finding("Cluster", OK, text))
    return found


def of_pairs(pairs: Iterable[Pair]) -> list[Finding]:
    """Each direction between two machines: reached, heard, and as fast as its link should be."""
    return [_pair(pair) for pair in pairs]


def _pair(pair: Pair) -> Finding:
    way = f"{pair.here} to {pair.there}"
    if pair.error:
        text = f"{way}: not reached: {pair.error}"
        return Finding("Pairs", PROBLEM, text, "tandem doctor  # on both: firewall, addresses")
    measured = [f"{way} over {pair.link}"]
    slow = pair.link == "wifi"
    if pair.round_trip_us is not None:
        measured.append(f"{pair.round_trip_us:.0f} us there and back")
        slow |= pair.round_trip_us > _SLOW_MICROSECONDS.get(pair.link, float("inf"))
    if pair.gigabits is not None:
        measured.append(f"{pair.gigabits:.1f} Gb/s")
        slow |= pair.gigabits < _SLOW_GIGABITS.get(pair.link, 0.0)
    text = ", ".join(measured)
    if pair.announced is False:
        text += "; its announcement by mDNS is not heard"
        return Finding("Pairs", WARNING, text, "tandem doctor  # on both: firewall, mDNS")
    if slow:
        better = "use a cable" if pair.link == "wifi" else "another cable or socket may help"
        return Finding("Pairs", WARNING, f"{text}: slow for a group; {better}")
    return Finding("Pairs", OK, text)


def _gib(count: int) -> str:
    amount = count / GIB
    return f"{amount:.0f}" if amount >= 10 else f"{amount:.1f}"
