"""The machines of the cluster: our own agent, those we call, and those that join.

A task attends to each: it keeps a connection and listens for signs of life. What they mean, the
roster says (`cluster/membership/roster.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Self

import structlog

from cluster.coordinator.changes import Changes
from cluster.coordinator.trust import Trust
from cluster.core.clock import Clock
from cluster.core.cluster import NodeDescription
from cluster.core.errors import (
    BadConfiguration,
    NodeUnreachable,
    NotAuthorized,
    TandemError,
    VersionMismatch,
)
from cluster.core.facts import Surveyed
from cluster.core.identity import Claim, claim
from cluster.core.versions import require_same
from cluster.membership.roster import Node, Presence, Roster
from cluster.wire.node_client import NodeClient
from cluster.wire.registry import RegistryServer
from cluster.wire.security import is_loopback, split_address

RETRY_SECONDS = 0.5
"""Between attempts to reach an agent that does not answer."""

ANSWER_SECONDS = 1.0
"""For an agent that is to take part in the next epoch."""

MOST_REFUSED = 16
REFUSED_SECONDS = 600.0
"""For which it is remembered who was refused, and how many are."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Member:
    """A machine whose agent answers."""

    client: NodeClient
    description: NodeDescription
    ranks: int
    """How many engines it runs in one group; with none it only gives weights."""
    beside: int = 0
    """How many more it runs in other groups of the same model."""

    @property
    def threads(self) -> int:
        """Cores for each engine."""
        return max(1, self.description.cores // (self.ranks + self.beside))

    @property
    def id(self) -> str:
        return self.description.node_id

    @property
    def host(self) -> str:
        """Where its engines listen."""
        return split_address(self.description.agent_address)[0]

    @property
    def wireless(self) -> bool:
        """It is reached over Wi-Fi."""
        return any(a.ip == self.host and a.kind == "wifi" for a in self.description.addresses)


class Members:
    """All machines that were called or have joined. Implements RegistryHandler."""

    def __init__(self, clock: Clock, trust: Trust | None, tasks: asyncio.TaskGroup) -> None:
        """`trust` says who may take part, and is needed beyond loopback; `tasks` owns the tasks
        that attend to them."""
        self.cluster = socket.gethostname()
        self.trust = trust
        self.address = ""
        """"host:port" where workers join; empty while none can."""
        self.roster = Roster()
        self.changes = Changes()
        """A machine has come or gone, or is to be drained."""
        self._clock = clock
        self._tasks = tasks
        self._members: dict[str, Member] = {}
        self._joined: Counter[str] = Counter()
        """By agent address: the streams of workers that joined by themselves."""
        self._attended: set[str] = set()
        """Agent addresses of such workers, each with a task."""
        self._refused: dict[str, tuple[float, Surveyed]] = {}
        """By agent address: machines of other versions, and when they came; the latest last."""

    @asynccontextmanager
    async def listen(self, host: str, port: int) -> AsyncIterator[Self]:
        """Let workers join at host:port, and with trust let machines enroll beside it. Raises
        AddressInUse or BadConfiguration."""
        async with AsyncExitStack() as stack:
            if self.trust is not None:
                await stack.enter_async_context(self.trust.enrolling(host, port))
            server = await RegistryServer.start(
                host,
                port,
                self,
                self.trust.identity if self.trust is not None else None,
                self.trust.authority if self.trust is not None else None,
            )
            stack.push_async_callback(server.stop)
            self.address = server.address
            yield self

    async def call(self, address: str, ranks: int = 1) -> Member:
        """The machine whose agent listens at "host:port", which from now on is attended to. With
        no `ranks` no epoch uses it, but others get weights from it.

        Raises NodeUnreachable; NotAuthorized, also when another machine has the same id; or
        VersionMismatch with every difference by name."""
        first: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._tasks.create_task(self._attend(address, ranks, first), name=f"attend {address}")
        return await first

    @contextmanager
    def member(self, node: NodeDescription) -> Iterator[None]:
        """See RegistryHandler. A worker whose stream ends is gone once its agent is silent."""
        self._compare(node)
        address = node.agent_address
        self._joined[address] += 1
        if address not in self._attended:
            self._attended.add(address)
            self._tasks.create_task(self._attend_guest(address), name=f"attend {address}")
        try:
            yield
        finally:
            self._joined[address] -= 1
            self._joined += Counter()  # forgets those that are 0

    def refused(self, node: NodeDescription, error: VersionMismatch) -> None:
        """See RegistryHandler. It is remembered for a while."""
        address, now = node.agent_address[:100], self._clock.now()
        entry = Surveyed(node.node_id[:100], node.hostname[:100], address, error=str(error)[:500])
        self._refused.pop(address, None)
        self._refused[address] = now, entry
        while len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]

    @property
    def turned_away(self) -> tuple[Surveyed, ...]:
        """Machines of other versions that wanted to be members lately, and are none."""
        since = self._clock.now() - REFUSED_SECONDS
        return tuple(entry for when, entry in self._refused.values() if when >= since)

    def of(self, nodes: Iterable[Node]) -> list[Member]:
        """The members behind the roster's entries, with as many ranks as those have."""
        return [_with_ranks(self._members[node.id], node.ranks) for node in nodes]

    async def answering(self, nodes: Iterable[Node] | None = None) -> list[Member]:
        """Those of `nodes`, or of all that may be used, whose agents answer now: one that does
        not is left out for a while, long before its silence says that it is gone."""
        asked = self.of(self.roster.usable(self._clock.now()) if nodes is None else nodes)
        there = await asyncio.gather(*map(_answers, asked))
        for member, answers in zip(asked, there, strict=True):
            if not answers:
                self.failed(member)
        return [member for member, answers in zip(asked, there, strict=True) if answers]

    def failed(self, member: Member) -> None:
        """An engine did not come up on it: others are preferred for a while."""
        self.roster.failed(member.id, self._clock.now())

    def named(self, name: str) -> Node | None:
        """The machine of that id or host name that runs engines, if it is here."""
        nodes = self.roster.computing
        return next((node for node in nodes if name in (node.id, node.name)), None)

    async def _attend(
        self, address: str, ranks: int, first: asyncio.Future[Member] | None = None
    ) -> None:
        """Keep what is known of the agent at `address` current; tries again for ever, unless it
        can't be reached at `first`."""
        said = ""
        identity = self.trust.identity if self.trust is not None else None
        async with NodeClient(address, identity) as client:
            while True:
                try:
                    member = await self._greet(client, ranks)
                    if first is not None and not first.done():
                        first.set_result(member)
                    said = ""
                    await self._listen(member)
                except TandemError as error:
                    if first is not None and not first.done():
                        first.set_exception(error)
                        return
                    if str(error) != said:
                        said = str(error)
                        log.warning("a node does not answer", address=address, reason=said)
                await asyncio.sleep(RETRY_SECONDS)

    async def _attend_guest(self, address: str) -> None:
        """The same for a worker that joined by itself, until its stream has ended and it is taken
        for gone: it joins again when it is back."""
        attending = asyncio.create_task(self._attend(address, 1), name=f"attend to {address}")
        began = self._clock.now()
        try:
            while True:
                await asyncio.sleep(RETRY_SECONDS)
                node = self._at(address) or Node(address, 0, 1, began)
                silent = node.presence(self._clock.now()) is Presence.DEAD
                if silent and not self._joined[address]:
                    break
            # At once: whoever joins from here on is attended to anew.
            self._attended.remove(address)
            self.roster.leave(node.id, node.incarnation)
            self.changes.note()
        finally:
            attending.cancel()
            await asyncio.wait([attending])

    def _at(self, address: str) -> Node | None:
        """The machine that is here and whose agent listens there."""
        there = (member.id for member in self._members.values() if member.client.address == address)
        return next(filter(None, map(self.roster.find, there)), None)

    async def _greet(self, client: NodeClient, ranks: int) -> Member:
        """Ask what machine it is. Raises NodeUnreachable, NotAuthorized, or VersionMismatch with
        every difference by name."""
        description = await client.describe()
        if self.trust is not None:
            self.trust.require(description.node_id)
            await client.pin(description.node_id)
        who = f"the node {description.hostname} ({client.address})"
        try:
            require_same(description.versions, who)
        except VersionMismatch as error:
            self.refused(description, error)
            raise
        self._refused.pop(client.address, None)
        self._compare(description)
        for other in list(self._members.values()):
            # Only one agent can listen there, so what had another id is gone.
            if other.client is client and other.id != description.node_id:
                self.roster.leave(other.id, other.description.incarnation)
        member = Member(client, description, ranks)
        self.roster.arrive(
            member.id,
            description.incarnation,
            self._clock.now(),
            ranks=ranks,
            wireless=member.wireless,
            name=description.hostname,
        )
        self._members[member.id] = member
        self.changes.note()
        return member

    def _compare(self, node: NodeDescription) -> None:
        """Raise NotAuthorized when a machine that is here has the node's id, and is not the node
        or was started later. One that is silent gives way."""
        known = self.roster.find(node.node_id)
        if known is None:
            return
        match claim(self._members[known.id].description, node):
            case Claim.GHOST:
                raise NotAuthorized(f"{node.node_id} has been started again since, and is here")
            case Claim.COPY:
                if known.presence(self._clock.now()) is not Presence.DEAD:
                    raise NotAuthorized(
                        f"{node.node_id} is here already, and {node.hostname} is another machine "
                        "(or was started anew just now): was its disk copied? Two machines can't "
                        "have one id"
                    )
                self.roster.leave(known.id, known.incarnation)
            case Claim.SAME | Claim.RESTARTED:
                pass

    async def _listen(self, member: Member) -> None:
        """Note each sign of life, and tell its agent whom to refuse; raises NodeUnreachable when
        they end."""
        told: frozenset[str] = frozenset()
        async with aclosing(member.client.lease()) as beats:
            async for _ in beats:
                now = self._clock.now()
                if not self.roster.heard(member.id, member.description.incarnation, now):
                    raise NotAuthorized(f"{member.id} was started again elsewhere")
                if self.trust is None:
                    continue
                if self.trust.is_revoked(member.id):
                    self.roster.leave(member.id, member.description.incarnation)
                    self.changes.note()
                    self.trust.require(member.id)
                if (revoked := told | self.trust.revoked()) != told:
                    await member.client.refuse(revoked)
                    told = revoked


def _with_ranks(member: Member, ranks: int) -> Member:
    if ranks == member.ranks:
        return member
    return replace(member, ranks=ranks, beside=member.ranks - ranks)


async def _answers(member: Member) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await member.client.describe()
    except (NodeUnreachable, TimeoutError):
        return False
    return True


def check_reach(members: Iterable[Member]) -> None:
    """Raise BadConfiguration when some members listen on loopback and others do not: their
    engines could not reach each other."""
    hosts = {member.host for member in members}
    inside = sorted(host for host in hosts if is_loopback(host))
    outside = sorted(hosts - set(inside))
    if inside and outside:
        raise BadConfiguration(
            f"engines on {inside[0]} can't be reached from {outside[0]}: give this machine's "
            "address on that network with --control ADDRESS:PORT"
        )
