"""Machines find each other and measure their links, each in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.netns.conftest import Child, Machine, Make

pytestmark = pytest.mark.anyio

CHILD = ("-m", "tests.netns.child")


async def agents(machines: list[Machine]) -> list[str]:
    """Start an agent in each; their addresses."""
    children = await asyncio.gather(*(machine.start(*CHILD, "agent") for machine in machines))
    return [json.loads(await child.line()) for child in children]


async def events(child: Child, count: int) -> list[str]:
    return [json.loads(await child.line()) for _ in range(count)]


async def test_links_are_probed_as_they_are(network: Make, tmp_path: Path) -> None:
    net = network(3)
    net.certify(tmp_path)
    one, two, three = net.machines
    near, far = net.cable(two, three)
    addresses = await agents(net.machines)
    asking = await one.start(*CHILD, "probe", *addresses)
    found = json.loads(await asking.line())
    links = {(link[0], link[1], link[3]): (link[2], *link[4:]) for link in found["links"]}
    # Everybody reaches everybody over Ethernet.
    for a, b in ((0, 1), (1, 2), (2, 0)):
        source, kind, speed, error = links[a, b, net.machines[b].address]
        assert (source, kind, error) == (net.machines[a].address, "ethernet", "")
        assert speed > 1e6
    # The cable joins two of them, and leads from its own address to its own.
    assert links[1, 2, far][0::3] == (near, "")
    assert links[2, 1, near][0::3] == (far, "")
    assert links[0, 1, near][3] == "Network is unreachable"
    assert found["order"][0] == 0
    assert len(found["hosts"]) == 3

    three.unplug("cable0")
    asking = await one.start(*CHILD, "probe", *addresses[1:])
    found = json.loads(await asking.line())
    errors = {link[3]: link[6] for link in found["links"]}
    assert errors[three.address] == errors[two.address] == ""
    assert errors[far] and errors[near]
    assert found["hosts"] == [two.address, three.address]


async def test_a_machine_that_is_cut_off_goes_and_comes_back(network: Make) -> None:
    net = network(2)
    one, two = net.machines
    watching = await two.start(*CHILD, "browse")
    assert await events(watching, 1) == ["listening"]
    coordinator = await one.start(*CHILD, "advertise")
    await coordinator.line()
    assert await events(watching, 1) == ["Found"]
    one.unplug()
    assert await events(watching, 1) == ["Gone"]
    one.plug()
    assert await events(watching, 1) == ["Found"]
    await coordinator.kill()
    assert await events(watching, 1) == ["Gone"]


async def test_a_worker_finds_its_coordinator_on_any_of_its_networks(network: Make) -> None:
    net = network(2)
    one, two = net.machines
    near, _ = net.cable(one, two)
    one.unplug()
    coordinator = await one.start(*CHILD, "advertise")
    port = json.loads(await coordinator.line())
    worker = await two.start(*CHILD, "find")
    assert json.loads(await worker.line()) == f"{near}:{port}"
