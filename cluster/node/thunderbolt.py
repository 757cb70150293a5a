"""Findings about Thunderbolt links and RDMA over them. Pure.

RDMA over Thunderbolt is there from macOS 26.2 on, on Apple silicon with Thunderbolt 5, and is
switched on in Recovery only (Apple's TN3205). A Mac with Thunderbolt 4 takes the setting too, but
never gets a device.
"""

from __future__ import annotations

import re

from cluster.core.facts import Facts, Finding, Level

OK, NOTE, WARNING, PROBLEM = Level

SET_UP = "deploy/thunderbolt/setup"
"""Shows what it would change; changes it with --apply."""
RDMA_SINCE = (26, 2)
_THUNDERBOLT_4 = 40
"""Gb/s; what does more is Thunderbolt 5."""


def thunderbolt(facts: Facts) -> list[Finding]:
    """Cables, and whether the system can use each of them for itself."""
    topic, ports = "Thunderbolt", facts.thunderbolt
    linked = [port for port in ports if port.peer]
    if not linked:
        where = f"none of {len(ports)} sockets leads" if ports else "no link leads"
        return [Finding(topic, NOTE, f"{where} to another machine: other networks are used")]
    addressed = {a.interface for a in facts.addresses if ":" not in a.ip}
    bridged = {port.interface for port in ports} & set(facts.bridged)
    found = []
    for port in linked:
        text = f"{port.name} leads to {port.peer} at {port.gigabits or '?'} Gb/s"
        if 0 < port.gigabits < _THUNDERBOLT_4:
            text += ": a cable for Thunderbolt 4 or 5 does at least 40"
            found.append(Finding(topic, WARNING, text))
        elif port.interface not in addressed | bridged:
            mend = f"{SET_UP} --apply" if facts.system.startswith("macOS") else ""
            if port.interface and not mend:
                mend = f"sudo ip link set {port.interface} up"
            found.append(Finding(topic, WARNING, f"{text}, but has no IPv4 address", mend))
        else:
            found.append(Finding(topic, OK, text))
    if bridged:
        text = f"a bridge holds {', '.join(sorted(bridged))}: slower, no RDMA, and rings can loop"
        found.append(Finding(topic, WARNING, text, f"{SET_UP} --apply"))
    return found


def rdma(facts: Facts) -> list[Finding]:
    """Whether tensor parallelism can go around TCP."""
    topic = "RDMA"
    if facts.rdma_active:
        return [Finding(topic, OK, f"active: {', '.join(facts.rdma_active)}")]
    if facts.rdma_devices:
        text = f"{', '.join(facts.rdma_devices)}: on, but no port is up until a machine at the "
        return [Finding(topic, NOTE, f"{text}other end of a cable has it on too")]
    if not facts.system.startswith("macOS"):
        return [Finding(topic, NOTE, "no RDMA device: TCP is used")]
    if _version(facts.system) < RDMA_SINCE:
        text = f"{facts.system}: RDMA over Thunderbolt comes with macOS 26.2"
        return [Finding(topic, NOTE, text, "softwareupdate --list")]
    if not any(port.gigabits > _THUNDERBOLT_4 for port in facts.thunderbolt):
        return [Finding(topic, NOTE, "needs Thunderbolt 5, of which nothing is seen: TCP is used")]
    if facts.rdma_setting == "enabled":
        text = "is enabled, but there is no device: restart, with the cables in"
        return [Finding(topic, WARNING, text, "sudo shutdown -r now")]
    text = "is off: shut down, hold the power button, then in Recovery: Utilities, Terminal"
    return [Finding(topic, WARNING, text, "rdma_ctl enable  # in Recovery, then restart")]


def _version(system: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", system)[:2])
