"""What `tandem doctor` knows of machines beyond its own, each in a network namespace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.netns.cluster import CONTROL, Cluster
from tests.netns.network import ROOT, Machine, Make, Network, networks
from tests.netns.test_forming import CHILD, agents, events

pytestmark = pytest.mark.anyio


async def surveyed(net: Network, addresses: list[str]) -> dict[str, list[str] | None]:
    """By node id, whom each has heard; None for one that has not answered."""
    asking = await net.machines[0].start(*CHILD, "survey", *addresses)
    told: list[Any] = await events(asking, len(addresses))
    for _, heard, ahead, error in told:
        assert (heard is None) == bool(error)
        assert abs(ahead) < 0.5  # all have one clock
    return {node: heard for node, heard, _, _ in told}


async def test_multicast_that_passes_one_way_is_noticed(network: Make, tmp_path: Path) -> None:
    net = network(3)
    net.certify(tmp_path)
    addresses = await agents(net.machines)
    told = await surveyed(net, addresses)
    one, two, three = told
    assert told == {
        one: sorted([two, three]), two: sorted([one, three]), three: sorted([one, two]),
    }  # fmt: skip
    net.machines[1].deafen()
    assert await surveyed(net, addresses) == {
        one: sorted([two, three]), two: [], three: sorted([one, two]),
    }  # fmt: skip
    net.machines[1].deafen(deaf=False)
    assert (await surveyed(net, addresses))[two] == sorted([one, three])


def doctor(machine: Machine, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", "doctor", *options]
    return subprocess.run(
        ["ip", "netns", "exec", machine.namespace, *command],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        env={**machine.environment, "COLUMNS": "80"},
    )  # fmt: skip


@pytest.mark.e2e
def test_findings_of_another_machine_are_shown(tmp_path: Path) -> None:
    with networks(tmp_path) as make:
        cluster = Cluster(make(2))
        first, second = cluster.network.machines
        token = cluster.tandem("token", "create")
        cluster.serve("--nodes", "1", "--control", first.address)
        cluster.work(second, "--join", CONTROL, "--token", token)
        cluster.wait_epoch(2)
        second.deafen()

        told = doctor(first, "--json")
        answer = json.loads(told.stdout)
        here, there = answer["machines"]
        assert here["facts"]["heard"] == [there["node_id"]]
        assert there["facts"]["heard"] == []
        name = f"{there['hostname']} ({there['agent_address']})"
        assert {each["machine"] for each in answer["findings"]} == {"", name}
        assert any("same versions" in f["text"] and name in f["text"] for f in answer["findings"])
        unheard = [f for f in answer["findings"] if "one way only" in f["text"]]
        assert [f["mend"] for f in unheard] == [
            f"tandem worker --join {CONTROL}  # on {there['node_id']}"
        ]

        read = doctor(first).stdout
        print(read)
        assert f"\nOn {name}: " in read
        assert "heard by mDNS" in read
        refused = doctor(second, "--url", f"{first.address}:8642")
        assert "no server answers" in refused.stdout  # it listens on loopback
