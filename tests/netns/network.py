"""Networks of several machines on one: Linux network namespaces with veth pairs on a bridge.

    with networks(folder) as make:
        net = make(3)                      # three machines on one Ethernet
        one, two, three = net.machines
        net.cable(one, two)                # two more interfaces, a network of their own
        program = one.run("-m", "tests.netns.child", "agent")
        two.unplug()                       # its Ethernet is down, until plug()
        three.inside(function, argument)   # called here, with the sockets of that machine

Machine n has 10.77.0.<n+1>/24 on "eth0", and loopback of its own. Everything ends with the block:
processes are killed, namespaces deleted. Nothing outside of the namespaces is touched. Needs root
and `ip netns` (Debian: iproute2); skipped without.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from cluster.trust.authority import Authority
from cluster.trust.identity import Draft, IdentityFile, write_identity

ROOT = Path(__file__).parents[2]
LINE_SECONDS = 20.0
CLONE_NEWNET = 0x40000000

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_names = itertools.count()


def ip(*words: str) -> str:
    """Run `ip`; its output. Raises CalledProcessError, with its words in stderr."""
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


def enter(namespace: str) -> None:
    """From now on the sockets that this thread makes are in that namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if _libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"can't enter {namespace}")
    finally:
        os.close(handle)


class Connection(NamedTuple):
    """A TCP socket."""

    local: tuple[str, int]
    remote: tuple[str, int]
    listens: bool


def _connections() -> list[Connection]:
    """Of the network that this thread is in; IPv4, in sockets for IPv6 too."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state in ("01", "0A"):  # established, listening
                found.append(Connection(_end(local), _end(remote), state == "0A"))
    return found


def _end(text: str) -> tuple[str, int]:
    host, port = text.split(":")
    return socket.inet_ntoa(bytes.fromhex(host)[: -5 if len(host) > 8 else None : -1]), int(
        port, 16
    )


@dataclass
class Child:
    """A Python process in a machine, and the lines that it prints."""

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
class Program:
    """A Python process in a machine that writes all its output into a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What it and those before it with the same file have written so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL; what it started has to notice by itself."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM; its exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)


@dataclass
class Machine:
    """One network namespace."""

    namespace: str
    address: str
    home: Path
    port: tuple[str, str]
    """The switch, and its port to which eth0 leads."""
    children: list[Child] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    cables: int = 0

    async def start(self, *arguments: str) -> Child:
        """Start Python with `arguments` in this machine, in the repository's root."""
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
            env=self.environment,
        )  # fmt: skip
        self.children.append(Child(process))
        return self.children[-1]

    def run(self, *arguments: str, log: str = "log") -> Program:
        """The same, with its output in ~/`log`."""
        path = self.home / log
        with path.open("ab") as file:
            popen = subprocess.Popen(
                self._command(arguments),
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                env=self.environment,
            )  # fmt: skip
        self.programs.append(Program(popen, path))
        return self.programs[-1]

    def inside(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns or raises, called in a thread of this process whose sockets are
        this machine's."""
        found: list[T] = []
        raised: list[BaseException] = []

        def call() -> None:
            try:
                enter(self.namespace)
                found.append(function(*arguments))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]
        return found[0]

    def pids(self) -> list[int]:
        """All processes that run in it."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def connections(self) -> list[Connection]:
        """The TCP sockets of all processes in it."""
        return self.inside(_connections)

    def unplug(self, interface: str = "eth0") -> None:
        """Take an interface down: both of its ends notice."""
        ip("-n", self.namespace, "link", "set", interface, "down")

    def plug(self, interface: str = "eth0") -> None:
        """Take it up, or up again."""
        ip("-n", self.namespace, "link", "set", interface, "up")

    def lose(self) -> None:
        """The switch loses all that comes from or goes to eth0; nobody is told."""
        ip("-n", self.port[0], "link", "set", self.port[1], "nomaster")

    def pass_on(self) -> None:
        """The switch passes it on again."""
        ip("-n", self.port[0], "link", "set", self.port[1], "master", "bridge")

    def deafen(self, *, deaf: bool = True) -> None:
        """Whether the switch passes no multicast on to eth0: others still hear this machine, and
        what is for it alone arrives."""
        flood = "off" if deaf else "on"
        slave = ("type", "bridge_slave", "mcast_flood", flood)
        ip("-n", self.port[0], "link", "set", self.port[1], *slave)

    def running(self, interface: str = "eth0") -> None:
        """Return once the interface carries packets, some time after both of its ends are up."""
        end = time.monotonic() + 5
        while '"operstate":"UP"' not in ip("-n", self.namespace, "-j", "link", "show", interface):
            assert time.monotonic() < end, f"{interface} of {self.namespace} does not come up"
            time.sleep(0.01)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, sys.executable, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """What programs in it find in theirs."""
        others = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
        return {**others, "PYTHONPATH": str(ROOT), "HOME": str(self.home)}


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


@contextmanager
def networks(folder: Path) -> Iterator[Make]:
    """Makes networks of so many machines, whose home folders are in `folder`."""
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
        home = folder / f"home{number}"
        home.mkdir(exist_ok=True)
        port = f"port{number}"
        machine = Machine(add(str(number)), f"10.77.0.{number + 1}", home, (switch, port))
        ip("-n", switch, "link", "add", port, "type", "veth",
           "peer", "name", "eth0", "netns", machine.namespace)  # fmt: skip
        ip("-n", switch, "link", "set", port, "master", "bridge", "up")
        ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.plug()
        machine.running()
        return machine

    try:
        yield make
    finally:
        for machine_ in (m for network in made for m in network.machines):
            for pid in machine_.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for program in machine_.programs:
                program.popen.wait()
        for namespace in namespaces:
            ip("netns", "delete", namespace)
