"""A cluster of machines: how it forms, what becomes of an answer when its links fail, and who is
kept out. The server is on the first machine; the workers are on the next two, which a cable
joins: over Ethernet they are told what to do, over the cable they compute. On the fourth are
strangers."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.discovery.advert import cluster_mark
from cluster.trust.authority import Authority
from cluster.trust.identity import read_identity, write_identity
from cluster.trust.token import JoinToken
from tests.netns.cluster import CONTROL, Answer, Cluster, wait_until
from tests.netns.eavesdrop import Eavesdropper, listening
from tests.netns.network import Machine, Network, networks

pytestmark = pytest.mark.e2e

QUESTION = "What is Tandem?"
TOKENS = 120
FAULT_AT = 30
TRUST = ".config/tandem/trust"
ENROLLMENT = "10.77.0.1:8645"
REASONS = (  # in the words of TLS
    *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    "CERTIFICATE_VERIFY_FAILED",
)
LIES = 10
"""More than a worker tries at a time."""


@dataclass
class Formed:
    """A cluster whose two workers have joined, and what it took."""

    cluster: Cluster
    listener: Eavesdropper
    tokens: list[str]
    """That were used."""
    text: str
    """The answer of a server alone on its machine."""

    @property
    def workers(self) -> tuple[Machine, Machine]:
        return self.cluster.network.machines[1], self.cluster.network.machines[2]

    @property
    def stranger(self) -> Machine:
        return self.cluster.network.machines[3]

    def ask(self) -> Answer:
        return self.cluster.ask(QUESTION, TOKENS)

    def good(self, answer: Answer) -> None:
        """It has all come, and is what it would have been."""
        answer.join()
        assert not answer.error, answer
        assert (answer.over, answer.finish, len(answer.tokens)) == (True, "length", TOKENS)
        assert answer.text == self.text
        self.cluster.idle()


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Formed]:
    """Formed while a liar advertises the same cluster, by a worker that is there before its
    network and its server, and one that is told where that is."""
    folder = tmp_path_factory.mktemp("cluster")
    with networks(folder) as make:
        network = make(4)
        one, two, three, stranger = network.machines
        network.cable(two, three)
        cluster, alone = Cluster(network), Cluster(Network([stranger], network.switch))
        with listening(network) as listener:
            tokens = [cluster.tandem("token", "create") for _ in range(2)]
            mark = cluster_mark(JoinToken.parse(tokens[0]).fingerprint)
            lying = stranger.run("-m", "tests.netns.child", "lie", mark, str(LIES), log="lies")
            wait_until(lambda: lying.output, 20, lambda: lying.output)
            two.unplug()
            two.unplug("cable0")
            searching = cluster.work(two, "--token", tokens[0])
            wait_until(lambda: "no address" in searching.output, 20, lambda: searching.output)
            two.plug()
            two.plug("cable0")
            wait_until(lambda: "not of it" in searching.output, 20, lambda: searching.output)
            cluster.serve("--local-ranks", "0", "--nodes", "2", "--control", one.address)
            cluster.work(three, "--join", CONTROL, "--token", tokens[1])
            server = alone.serve()
            alone.wait_epoch(1)
            answer = alone.ask(QUESTION, TOKENS)
            answer.join()
            server.stop()
            cluster.wait_epoch(2)
            yield Formed(cluster, listener, tokens, answer.text)
            print(cluster.logs())


@contextmanager
def undisturbed(formed: Formed) -> Iterator[None]:
    """Answers come one after the other, each whole; epoch and members stay what they are."""
    cluster = formed.cluster
    before = cluster.wait_epoch(2), cluster.tandem("node", "list")
    over = threading.Event()

    def keep_asking() -> None:
        while True:
            formed.good(formed.ask())
            if over.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(keep_asking)
        try:
            yield
        finally:
            over.set()
            asking.result(120)
    assert (cluster.wait_epoch(2), cluster.tandem("node", "list")) == before


def test_workers_find_their_server_or_are_told(formed: Formed) -> None:
    cluster, (two, three) = formed.cluster, formed.workers
    assert cluster.hosts == {two.address, three.address}
    assert on_cable(two) and on_cable(three)
    formed.good(formed.ask())
    found = cluster.workers[two.address].output
    assert re.search(rf"{formed.stranger.address}:\d+ advertises this cluster, and is not", found)
    assert f"at {CONTROL} as {two.address}:8644" in found


def on_cable(machine: Machine) -> bool:
    """Its engine computes with the other over the cable."""
    return any(each.local[0].startswith("10.78.") for each in machine.connections())


class TestStrangers:
    """Each is refused, a log says why, and nothing is disturbed."""

    def test_at_every_port(self, formed: Formed, tmp_path: Path) -> None:
        cluster = formed.cluster
        programs = {cluster.first.address: cluster.server, **cluster.workers}
        ports = {
            f"{host}:{port}": machine
            for machine in (cluster.first, *formed.workers)
            for (host, port), _, listens in machine.connections()
            if listens and not host.startswith("127.")
        }
        # Registry, enrollment, the agent that gives weights; an agent and an engine on each worker.
        assert len(ports) == 7
        other = Authority.open(tmp_path / "other")
        other.renew_own()
        member = formed.workers[0].home / TRUST / "node.json"
        authority = tmp_path / "authority.pem"
        identity = read_identity(member)
        assert identity is not None
        authority.write_text(identity.authority)
        before = {address: len(program.output) for address, program in programs.items()}
        with undisturbed(formed):
            for address in ports:
                for words in (b"\0" * 1000, b"GET / HTTP/1.1\r\nHost: tandem\r\n\r\n"):
                    assert formed.stranger.inside(say, address, words) == b""
            words = ("knock", str(other.folder), str(authority), str(member), *ports)
            knocking = formed.stranger.run("-m", "tests.netns.child", *words, log="knock")
            assert knocking.popen.wait(60) == 0, knocking.output
        told = [json.loads(line) for line in knocking.output.splitlines() if line[0] == "["]
        assert len(told) == len(ports) * 4 * 2
        for address, who, method, answer in told:
            wanted = {"UNAVAILABLE"}  # no handshake
            if who == "a member's" and address == CONTROL:
                continue  # who has stolen that is one, until it is revoked
            if address == ENROLLMENT and who != "no encryption":
                wanted = {"UNIMPLEMENTED"}
            elif who == "a member's":
                wanted = {"UNAUTHENTICATED", "UNIMPLEMENTED"}
            if wanted == {"UNAUTHENTICATED", "UNIMPLEMENTED"} and method == served(address):
                wanted = {"UNAUTHENTICATED"}
            assert answer in wanted, (address, who, method, answer)
        for address, program in programs.items():
            logged = program.output[before[address] :]
            for why in (
                "WRONG_VERSION_NUMBER",
                "HTTP_REQUEST",
                "PEER_DID_NOT_RETURN_A_CERTIFICATE",
            ):
                assert why in logged, logged
            assert "CERTIFICATE_VERIFY_FAILED" in logged, logged
            if address != cluster.first.address:
                name = identity.name.id
                who = rf"refused a call from {formed.stranger.address}:\d+: {name} is a node here"
                assert len(re.findall(who, logged)) >= 2, logged  # the agent, and the engine

    def test_with_a_bad_token_or_certificate(self, formed: Formed, tmp_path: Path) -> None:
        cluster, stranger = formed.cluster, formed.stranger
        expired = cluster.tandem("token", "create", "--expires", "1s")
        other = Authority.open(tmp_path / "other")
        other.renew_own()
        foreign = read_identity(other.folder / "local.json")
        assert foreign is not None
        (tmp_path / "certificate").mkdir()
        write_identity(tmp_path / "certificate" / "node.json", foreign)
        made_up = JoinToken.make(JoinToken.parse(expired).fingerprint)
        tokens = {
            "expired": (expired, "the join token has expired"),
            "used": (formed.tokens[0], "the join token was used already"),
            "made up": (str(made_up), "the join token is not known"),
            "other": (str(other.create_token(60)), "the token is one of another cluster"),
        }
        wait_until(lambda: "expired" in cluster.tandem("token", "list"), 10, cluster.logs)
        before = len(cluster.server.output)
        with undisturbed(formed):
            options = ("--join", CONTROL, "--port", "0", "--trust")
            worker = ("-m", "cluster.cli", "worker", *options)
            certified = stranger.run(*worker, str(tmp_path / "certificate"), log="certificate")
            tried = {
                name: stranger.run(*worker, str(tmp_path / name), "--token", token, log=name)
                for name, (token, _) in tokens.items()
            }
            for name, program in tried.items():
                assert program.popen.wait(60) == 1
                assert tokens[name][1] in program.output
                assert not (tmp_path / name / "node.json").exists()
            wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in certified.output, 20,
                       lambda: certified.output)  # fmt: skip
            certified.stop()
        logged = cluster.server.output[before:]
        for name in ("expired", "used", "made up"):
            why = tokens[name][1]
            assert re.search(rf"refused to enroll {stranger.address}:\d+: {why}", logged), logged
            assert JoinToken.parse(tokens[name][0]).secret.hex() not in logged
        assert tokens["other"][1] not in logged  # it was not even shown

    def test_who_replays_what_was_heard(self, formed: Formed) -> None:
        flows: dict[tuple[str, int], bytes] = {}
        for flow, said in formed.listener.heard().items():
            if flow.source[0] != formed.stranger.address and len(said) > 600:
                flows.setdefault(flow.target, said)
        targets = {f"{host}:{port}" for host, port in flows}
        engines = {rank["endpoint"] for rank in formed.cluster.view()["ranks"]}
        agents = {f"{machine.address}:8644" for machine in formed.workers}
        assert targets >= {CONTROL, ENROLLMENT} | agents | engines
        heard = b"".join(flows.values())
        assert b"tandem.internal" in heard  # whom they call is no secret
        assert not any(token.encode() in heard for token in formed.tokens)
        before = formed.cluster.logs().count("BAD_DECRYPT")
        with undisturbed(formed):
            for host, port in flows:
                if f"{host}:{port}" in {CONTROL, ENROLLMENT} | agents | engines:
                    formed.stranger.inside(say, f"{host}:{port}", flows[host, port])
        assert formed.cluster.logs().count("BAD_DECRYPT") == before + 6


def served(address: str) -> str:
    """A method that a machine of the cluster answers at that address to its coordinator."""
    agents = address.endswith(":8644") or address.startswith("10.77.0.1:")
    return "Node/Describe" if agents else "Engine/Run"


def say(address: str, words: bytes) -> bytes:
    """What a server says to these bytes, until it hangs up; it must."""
    host, port = address.split(":")
    heard = b""
    with socket.create_connection((host, int(port)), 5) as sock:
        sock.settimeout(15)
        with suppress(ConnectionError):
            sock.sendall(words)
            while data := sock.recv(65536):
                heard += data
    return heard


@dataclass(frozen=True)
class Fault:
    """Something happens to the third machine, and is mended."""

    name: str
    happens: Callable[[Formed], object]
    mended: Callable[[Formed], object]
    ranks: int
    """With which the answer goes on."""

    def __str__(self) -> str:
        return self.name


def third(formed: Formed) -> Machine:
    return formed.workers[1]


def kill_third(formed: Formed) -> None:
    formed.cluster.workers[third(formed).address].kill()


def start_third(formed: Formed) -> None:
    """With the command that it was started with first; the token is used up."""
    formed.cluster.work(third(formed), "--join", CONTROL, "--token", formed.tokens[1])


FAULTS = (
    Fault(
        "data link cut",
        lambda formed: third(formed).unplug("cable0"),
        lambda formed: third(formed).plug("cable0"),
        ranks=2,
    ),
    Fault(
        "control link cut",
        lambda formed: third(formed).lose(),
        lambda formed: third(formed).pass_on(),
        ranks=1,
    ),
    Fault(
        "both links cut",
        lambda formed: (third(formed).unplug(), third(formed).unplug("cable0")),
        lambda formed: (third(formed).plug(), third(formed).plug("cable0")),
        ranks=1,
    ),
    Fault("worker killed", kill_third, start_third, ranks=1),
)


class TestFaults:
    """An answer goes on by itself, and is what it would have been."""

    def test_a_short_break_of_the_control_link(self, formed: Formed) -> None:
        epoch = formed.cluster.wait_epoch(2)
        answer = formed.ask()
        answer.reach(FAULT_AT)
        third(formed).lose()
        wait_until(lambda: time.monotonic() - answer.arrivals[-1] > 1.5, 20, lambda: answer)
        third(formed).pass_on()
        formed.good(answer)
        assert formed.cluster.wait_epoch(2) == epoch
        print(f"| control link cut for 1.5 s | pause {answer.longest_gap:.1f} s, same epoch |")

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_a_fault_and_its_end(self, formed: Formed, fault: Fault) -> None:
        cluster = formed.cluster
        epoch = cluster.wait_epoch(2)
        answer = formed.ask()
        answer.reach(FAULT_AT)
        fault.happens(formed)
        formed.good(answer)
        after = cluster.wait_epoch(fault.ranks, epoch)
        fault.mended(formed)
        mended = time.monotonic()
        whole = cluster.wait_epoch(2, after if fault.ranks < 2 else epoch)
        row = f"| {fault} | pause {answer.longest_gap:.1f} s, {fault.ranks} ranks"
        back = f", back {time.monotonic() - mended:.1f} s after it was mended"
        print(row + (back if whole > after else "") + " |")
        formed.good(formed.ask())


def test_four_machines_serve_one_model(tmp_path: Path) -> None:
    with networks(tmp_path) as make:
        cluster = Cluster(make(4))
        token = cluster.tandem("token", "create", "--reusable")
        cluster.serve("--nodes", "3", "--control", cluster.first.address)
        for machine in cluster.network.machines[1:]:
            cluster.work(machine, "--token", token)
        cluster.wait_epoch(4)
        assert cluster.hosts == {machine.address for machine in cluster.network.machines}
        answer = cluster.ask(QUESTION, 16)
        answer.join()
        assert len(answer.tokens) == 16 and not answer.error
        for program in (cluster.server, *cluster.workers.values()):
            assert program.stop() == 0
        assert [machine.pids() for machine in cluster.network.machines] == [[]] * 4
