"""What is found in several machines side by side, each with the command that mends it."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from cluster.core.cluster import Blas, NodeDescription
from cluster.core.facts import Facts, Finding, FirewallState, Level, Pair, Survey, Surveyed
from cluster.node.cluster_findings import of_clocks, of_nodes, of_others, of_pairs, with_announced
from cluster.node.findings import of_machine
from tests.unit.node.test_findings import GIB, LINUX, MAC, SLOW, VERSIONS

NODE = NodeDescription(
    "n1", "mini", "Apple M4", 10, 16 * GIB, 12 * GIB, "macOS 26.2", VERSIONS,
    Blas("Metal", "", True, ""), (), "192.168.1.10:8644",
)  # fmt: skip
AWAY = Pair("a", "b", "ethernet", 200.0, 0.9, here_id="a-1", there_id="b-2")
BACK = Pair("b", "a", "ethernet", 200.0, 0.9, here_id="b-2", there_id="a-1")


def surveyed(name: str, facts: Facts | None, *, ahead: float = 0.0, error: str = "") -> Surveyed:
    return Surveyed(name, name[0], f"10.0.0.{name[-1]}:8644", facts, error, ahead, 0.001)


def two(heard_by_a: tuple[str, ...] | None, heard_by_b: tuple[str, ...] | None) -> list[Surveyed]:
    return [
        surveyed("a-1", replace(MAC, heard=heard_by_a)),
        surveyed("b-2", replace(LINUX, heard=heard_by_b)),
    ]


def test_nodes_of_a_cluster() -> None:
    other = replace(NODE, hostname="box", versions=replace(VERSIONS, mlx="0.31.0"))
    slow = replace(NODE, hostname="old", blas=SLOW)
    same, differs, reference = of_nodes([NODE, other, slow], VERSIONS)
    assert (same.level, reference.level) == (Level.OK, Level.WARNING)
    assert differs.level is Level.PROBLEM
    assert "mlx 0.32.4 here, 0.31.0 there" in differs.text
    assert "scripts/setup" in differs.mend


def test_machines_that_were_asked_have_their_versions_compared_too() -> None:
    other = surveyed("b-2", replace(LINUX, versions=replace(VERSIONS, tandem="0.0.9")))
    same, differs = of_nodes(
        [surveyed("a-1", MAC), other, surveyed("c-3", None, error="silent")], VERSIONS
    )
    assert (same.level, differs.level) == (Level.OK, Level.PROBLEM)
    assert "b (10.0.0.2:8644)" in differs.text
    assert "tandem 0.1.0 here, 0.0.9 there" in differs.text


@pytest.mark.parametrize(
    ("pair", "level", "text"),
    [
        (Pair("a", "b", "thunderbolt", 40.0, 50.0, True), "ok", "40 us there and back, 50.0 Gb/s"),
        (Pair("a", "b", "thunderbolt", 40.0, 50.0, True), "ok", "heard by mDNS"),
        (Pair("a", "b", "ethernet"), "ok", "a to b over ethernet"),
        (Pair("a", "b", "other", 90_000.0, 0.01), "ok", "90000 us"),
        (Pair("a", "b", "thunderbolt", 1500.0), "warning", "slow"),
        (Pair("a", "b", "thunderbolt", 40.0, 5.0), "warning", "slow"),
        (Pair("a", "b", "ethernet", 200.0, 0.09), "warning", "another cable"),
        (Pair("a", "b", "wifi", 900.0, 0.9), "warning", "use a cable"),
        (Pair("a", "b", "ethernet", error="timed out"), "problem", "not reached: timed out"),
        (replace(AWAY, there="a"), "ok", "a-1 to b-2 over"),
    ],
)
def test_pairs(pair: Pair, level: str, text: str) -> None:
    (found,) = of_pairs([pair])
    assert (found.topic, found.level) == ("Pairs", level)
    assert text in found.text


@pytest.mark.parametrize(
    ("heard_by_a", "heard_by_b", "announced"),
    [
        (("b-2", "stranger"), ("a-1",), [True, True]),
        (("b-2",), (), [True, False]),
        ((), (), [False, False]),
        (("b-2",), None, [None, None]),  # b has not spoken, so a could not hear it
        (None, ("a-1",), [None, None]),
    ],
)
def test_who_has_heard_whom(
    heard_by_a: tuple[str, ...] | None,
    heard_by_b: tuple[str, ...] | None,
    announced: list[bool | None],
) -> None:
    pairs = with_announced([AWAY, BACK], two(heard_by_a, heard_by_b))
    assert [pair.announced for pair in pairs] == announced
    silent = [*two(heard_by_a, heard_by_b)[:1], surveyed("b-2", None, error="silent")]
    assert [pair.announced for pair in with_announced([AWAY, BACK], silent)] == [None, None]


def unheard(heard_by_a: tuple[str, ...], machines: list[Surveyed], join: str = "") -> list[Finding]:
    """Warnings about the pairs, when b hears nobody."""
    survey = Survey(join, tuple(machines))
    found = of_pairs(with_announced([AWAY, BACK], machines), survey)
    assert [each.level for each in found].count(Level.OK) == 2  # both links are well
    assert all(each.topic == "Pairs" for each in found)
    return [each for each in found if each.level is Level.WARNING]


def test_multicast_that_passes_one_way_only() -> None:
    machines = two(("b-2",), ())
    (found,) = unheard(("b-2",), machines, "10.0.0.1:8643")
    assert "b does not hear a by mDNS, which does hear it: multicast passes one way" in found.text
    assert found.mend == "tandem worker --join 10.0.0.1:8643  # on b"
    (found,) = unheard(("b-2",), machines)
    assert found.mend == "tandem worker --join HOST:PORT  # on b"


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("ufw", "sudo ufw allow 5353/udp"),
        ("firewalld", "sudo firewall-cmd --permanent --add-service=mdns"),
        ("nftables", "sudo nft insert rule inet filter input udp dport 5353 accept"),
    ],
)
def test_a_firewall_in_the_way_of_multicast(name: str, mend: str) -> None:
    one, other = two(("b-2",), ())
    assert other.facts is not None
    closed = replace(other.facts, firewall=name, firewall_state=FirewallState.ON)
    (found,) = unheard(("b-2",), [one, replace(other, facts=closed)])
    assert "the firewall of b is on" in found.text
    assert found.mend.startswith(mend)
    assert found.mend.endswith("  # on b")
    subprocess.run(["bash", "-n", "-c", found.mend], check=True)


def test_the_firewall_of_macos_and_multicast_that_can_not_leave() -> None:
    mac = replace(MAC, heard=(), firewall_state=FirewallState.ON)
    silent = replace(LINUX, heard=(), multicast_error="ENETUNREACH")
    first, second = unheard((), [surveyed("a-1", mac), surveyed("b-2", silent)])
    assert "a does not hear b by mDNS; the firewall of a is on" in first.text
    assert "--unblockapp" in first.mend and first.mend.endswith("  # on a")
    assert "one way" not in second.text
    assert "b does not hear a by mDNS" in second.text  # of which a's firewall is no reason
    assert second.mend.startswith("tandem worker --join")
    machines = [surveyed("a-1", replace(MAC, heard=())), surveyed("b-2", silent)]
    first, second = unheard((), machines)
    assert "it can't leave b (ENETUNREACH)" in first.text
    assert first.mend == "sudo ip route add 224.0.0.0/4 dev eth0  # on b"


def test_what_others_have_found_says_where() -> None:
    little = replace(LINUX, available_bytes=GIB)
    found = of_others([surveyed("b-2", little), surveyed("c-3", None, error="it is silent")])
    assert [each.text for each in found[:-1]] == [each.text for each in of_machine(little)]
    assert {each.machine for each in found[:-1]} == {"b (10.0.0.2:8644)"}
    assert (found[-1].level, found[-1].machine) == (Level.PROBLEM, "")
    assert found[-1].text == "c (10.0.0.3:8644) has told nothing of itself: it is silent"


@pytest.mark.parametrize(
    ("ahead", "level", "text"),
    [
        (0.5, "ok", "1 clock is within 501 ms"),
        (-2.0005, "ok", "within"),  # which the way there and back may account for
        (3.0, "warning", "3.0 s ahead of"),
        (-61.5, "problem", "61.5 s behind"),
    ],
)
def test_clocks(ahead: float, level: str, text: str) -> None:
    silent = surveyed("c-3", None, error="silent")
    (found,) = of_clocks([surveyed("b-2", LINUX, ahead=ahead), silent])
    assert found.level == level
    assert text in found.text
    assert found.mend == ("" if level == "ok" else "sudo timedatectl set-ntp true")
    assert found.machine == ("" if level == "ok" else "b (10.0.0.2:8644)")
