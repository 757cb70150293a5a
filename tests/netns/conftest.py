"""Networks of several machines on one: Linux network namespaces with veth pairs on a bridge.

    async def test_something(network: Make) -> None:
        net = network(3)                       # three machines on one Ethernet
        one, two, three = net.machines
        net.cable(one, two)                    # two more interfaces, a network of their own
        child = one.start("-m", "tests.netns.child", "agent")
        assert json.loads(await child.line())  # the next line of its output
        two.unplug()                           # its Ethernet is down, until plug()
    net.certify(tmp_path)                  # all are of one cluster

Machine n has 10.77.0.<n+1>/24 on "eth0", and loopback of its own. Only children started with
`start` are in it; the test is outside and reaches none of them, so what it wants to know they
print. Everything ends with the test: children are killed, namespaces deleted. Nothing outside of
the namespaces is touched. Needs root and `ip netns` (Debian: iproute2); skipped without.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.trust.authority import Authority
from cluster.trust.identity import Draft, IdentityFile, write_identity

ROOT = Path(__file__).parents[2]
LINE_SECONDS = 20.0

_names = itertools.count()


def ip(*words: str) -> str:
    """Run `ip`; its output. Raises CalledProcessError, with its words in stderr."""
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


@dataclass
class Child:
    """A Python process in a machine."""

    process: asyncio.subprocess.Process

    async def line(self, seconds: float = LINE_SECONDS) -> str:
        """The next line that it prints; fails the test when none comes, or it has ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self.process.stdout.readline()
        assert line, f"the child has ended with {self.process.returncode}"
        return line.decode().rstrip("\n")

    async def kill(self) -> None:
        """As if its machine had lost power."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@dataclass
class Machine:
    """One network namespace."""

    namespace: str
    address: str
    home: Path
    children: list[Child] = field(default_factory=list)
    cables: int = 0

    async def start(self, *arguments: str) -> Child:
        """Start Python with `arguments` in this machine, in the repository's root."""
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self.namespace, sys.executable, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.home)},
        )  # fmt: skip
        self.children.append(Child(process))
        return self.children[-1]

    def unplug(self, interface: str = "eth0") -> None:
        """Take an interface down."""
        ip("-n", self.namespace, "link", "set", interface, "down")

    def plug(self, interface: str = "eth0") -> None:
        """Take it up, or up again."""
        ip("-n", self.namespace, "link", "set", interface, "up")

    def running(self, interface: str = "eth0") -> None:
        """Return once the interface carries packets, some time after both of its ends are up."""
        end = time.monotonic() + 5
        while '"operstate":"UP"' not in ip("-n", self.namespace, "-j", "link", "show", interface):
            assert time.monotonic() < end, f"{interface} of {self.namespace} does not come up"
            time.sleep(0.01)


@dataclass
class Network:
    """Machines on one bridge, which is in a namespace too."""

    machines: list[Machine]
    switch: str
    cables: int = 0

    def cable(self, one: Machine, other: Machine) -> tuple[str, str]:
        """Connect two machines directly; returns their addresses on the new interfaces, which
        are called cable0, cable1, ... in each."""
        self.cables += 1
        addresses = (f"10.78.{self.cables}.1", f"10.78.{self.cables}.2")
        names = (f"cable{one.cables}", f"cable{other.cables}")
        ip("-n", one.namespace, "link", "add", names[0], "type", "veth",
           "peer", "name", names[1], "netns", other.namespace)  # fmt: skip
        for machine, address, name in zip((one, other), addresses, names, strict=True):
            machine.cables += 1
            ip("-n", machine.namespace, "address", "add", f"{address}/24", "dev", name)
            machine.plug(name)
        one.running(names[0])
        other.running(names[1])
        return addresses

    def certify(self, folder: Path) -> None:
        """Give each machine ~/node.json, an identity of one cluster, and the first one
        ~/coordinator.json; the authority is in `folder`."""
        authority = Authority.open(folder / "authority")
        authority.renew_own()
        own = IdentityFile(authority.folder / "coordinator.json").current()
        write_identity(self.machines[0].home / "coordinator.json", own)
        for machine in self.machines:
            draft = Draft()
            token = str(authority.create_token(60))
            issued = authority.enroll(token, draft.request, machine.home.name)
            identity = draft.finish(issued.certificate, issued.authority, "10.77.0.1:1", "")
            write_identity(machine.home / "node.json", identity)


Make = Callable[[int], Network]


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes networks of so many machines."""
    made: list[Network] = []
    namespaces: list[str] = []

    def add(name: str) -> str:
        namespace = f"tandem-{os.getpid()}-{next(_names)}-{name}"
        ip("netns", "add", namespace)
        namespaces.append(namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def make(count: int) -> Network:
        try:
            switch = add("switch")
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            pytest.skip(f"no network namespaces here (root and iproute2 are needed): {why}")
        network = Network([], switch)
        made.append(network)
        for number in range(count):
            network.machines.append(machine(number, switch))
        return network

    def machine(number: int, switch: str) -> Machine:
        home = tmp_path / f"home{number}"
        home.mkdir(exist_ok=True)
        machine = Machine(add(str(number)), f"10.77.0.{number + 1}", home)
        ip("-n", switch, "link", "add", f"port{number}", "type", "veth",
           "peer", "name", "eth0", "netns", machine.namespace)  # fmt: skip
        ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
        ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.plug()
        machine.running()
        return machine

    try:
        yield make
    finally:
        for child in (c for network in made for m in network.machines for c in m.children):
            await child.kill()
        for namespace in namespaces:
            ip("netns", "delete", namespace)
