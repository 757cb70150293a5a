"""From the facts of several machines, side by side, to findings. Pure.

`of_nodes` is about the machines of a cluster, `of_pairs` about what they have measured towards each
other and heard of each other, `of_others` about what each has found at itself, `of_clocks` about
their clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.core.cluster import NodeDescription, Versions
from cluster.core.facts import Facts, Finding, Level, Pair, Survey, Surveyed
from cluster.node.findings import (
    CERTIFICATE_SECONDS,
    CLOCK_SECONDS,
    gib,
    let_mdns_in,
    multicast,
    of_machine,
    set_clock,
)

OK, NOTE, WARNING, PROBLEM = Level

_SLOW_MICROSECONDS = {"thunderbolt": 1_000.0, "ethernet": 2_000.0}
_SLOW_GIGABITS = {"thunderbolt": 8.0, "ethernet": 0.8}
"""Less than this over a link of that kind, and something is wrong with it."""


def where(machine: Surveyed | NodeDescription) -> str:
    """How a machine is called in findings: two may have one host name."""
    return f"{machine.hostname} ({machine.agent_address})"


def of_nodes(nodes: Iterable[NodeDescription | Surveyed], own: Versions) -> list[Finding]:
    """The machines of a running cluster, those that have answered; `own` are the versions of this
    machine."""
    return [
        found
        for node in nodes
        if (facts := node.facts if isinstance(node, Surveyed) else node) is not None
        for found in _node(where(node), facts, own)
    ]


def _node(name: str, node: NodeDescription | Facts, own: Versions) -> list[Finding]:
    if differences := own.differences(node.versions):
        text = f"{name} runs other versions: {'; '.join(differences)}"
        return [Finding("Cluster", PROBLEM, text, "git pull && scripts/setup  # on both")]
    if not node.blas.fast:
        return [Finding("Cluster", WARNING, f"{name} computes slowly: {node.blas.advice}")]
    size = gib(node.usable_bytes)
    text = f"{name}: {node.system}, same versions, {size} GiB for engines"
    return [Finding("Cluster", OK, text)]


def of_others(machines: Iterable[Surveyed]) -> list[Finding]:
    """What each machine has found at itself, or why it has told nothing."""
    found = []
    for machine in machines:
        name = where(machine)
        if machine.facts is not None:
            found += [replace(each, machine=name) for each in of_machine(machine.facts)]
        else:
            text = f"{name} has told nothing of itself: {machine.error}"
            found.append(Finding("Cluster", PROBLEM, text, f"tandem doctor  # on {name}"))
    return found


def of_clocks(machines: Iterable[Surveyed]) -> list[Finding]:
    """How far the clocks are from the server's, less what the way between may account for."""
    found, within = [], []
    for machine in machines:
        off = abs(machine.ahead) - machine.ahead_within
        if machine.facts is None:
            continue
        if off <= CLOCK_SECONDS:
            within.append(abs(machine.ahead) + machine.ahead_within)
            continue
        level = PROBLEM if off > CERTIFICATE_SECONDS else WARNING
        side = "ahead of" if machine.ahead > 0 else "behind"
        text = f"the clock is {abs(machine.ahead):.1f} s {side} the server's"
        mend = set_clock(machine.facts)
        found.append(Finding("Clock", level, text, mend, where(machine)))
    if within:
        clocks = "1 clock is" if len(within) == 1 else f"{len(within)} clocks are"
        text = f"{clocks} within {max(within) * 1000:.0f} ms of the server's"
        found.append(Finding("Cluster", OK, text))
    return found


def with_announced(pairs: Iterable[Pair], machines: Iterable[Surveyed]) -> list[Pair]:
    """The pairs, with whom each machine has heard; None where it has not listened, or the other
    has not told that it spoke."""
    heard = {
        machine.node_id: frozenset(machine.facts.heard)
        for machine in machines
        if machine.facts is not None and machine.facts.heard is not None
    }
    return [
        replace(pair, announced=pair.there_id in heard[pair.here_id])
        if pair.here_id in heard and pair.there_id in heard
        else pair
        for pair in pairs
    ]


def of_pairs(pairs: Sequence[Pair], survey: Survey | None = None) -> list[Finding]:
    """Each direction between two machines: reached, as fast as its link should be, and heard.

    `survey` tells what may be in the way of what was not heard, and where workers join.
    """
    survey = survey or Survey("", ())
    facts = {machine.node_id: machine.facts for machine in survey.machines}
    back = {(pair.here_id, pair.there_id): pair.announced for pair in pairs}
    found = []
    for pair in pairs:
        found.append(_measured(pair))
        if pair.announced is False:
            other_way = back.get((pair.there_id, pair.here_id))
            found.append(_unheard(pair, other_way, facts, survey.join))
    return found


def _measured(pair: Pair) -> Finding:
    here, there = _names(pair)
    way = f"{here} to {there}"
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
    if slow:
        better = "use a cable" if pair.link == "wifi" else "another cable or socket may help"
        return Finding("Pairs", WARNING, f"{text}: slow for a group; {better}")
    return Finding("Pairs", OK, f"{text}, heard by mDNS" if pair.announced else text)


def _unheard(
    pair: Pair, other_way: bool | None, facts: Mapping[str, Facts | None], join: str
) -> Finding:
    """By mDNS `here` does not get what `there` says: the firewall of `here` may be closed to it,
    `there` may not be able to send it, and else the network between drops it."""
    here, there = _names(pair)
    text = f"{here} does not hear {there} by mDNS"
    if other_way:
        text += ", which does hear it: multicast passes one way only"
    listener, speaker = facts.get(pair.here_id), facts.get(pair.there_id)
    if listener is not None and (mend := let_mdns_in(listener)):
        text += f"; the firewall of {here} is on"
        return Finding("Pairs", WARNING, text, f"{mend}  # on {here}")
    if speaker is not None and speaker.multicast_error:
        text += f"; it can't leave {there} ({speaker.multicast_error})"
        if mend := next((found.mend for found in multicast(speaker)), ""):
            return Finding("Pairs", WARNING, text, f"{mend}  # on {there}")
    text += "; a worker there has to be told where to join"
    mend = f"tandem worker --join {join or 'HOST:PORT'}  # on {here}"
    return Finding("Pairs", WARNING, text, mend)


def _names(pair: Pair) -> tuple[str, str]:
    """Host names; where both are the same, ids."""
    if pair.here == pair.there and pair.here_id:
        return pair.here_id, pair.there_id
    return pair.here, pair.there
