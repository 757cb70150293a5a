"""Weights that travel between agents over loopback gRPC, and all that can go wrong with them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import demo
from cluster.coordinator.members import Member
from cluster.coordinator.sources import find_sources
from cluster.core.cluster import EngineEvent, LaunchSpec, Loading, Ready, ShardPlan
from cluster.core.errors import LaunchFailed, ModelUnavailable
from cluster.core.ids import Epoch, Rank
from cluster.core.manifest import Manifest, ModelFile, Wanted
from cluster.model.digest import digest
from cluster.node.agent import Agent
from cluster.trust.identity import IdentityFile
from cluster.wire.node_client import NodeClient
from cluster.wire.node_server import NodeServer
from tests.conftest import wait_for
from tests.integration import trust
from tests.integration.test_node_agent import children, make_agent, until

pytestmark = pytest.mark.anyio

MODEL = "/nowhere/a-model"
"""Every agent has it in its own models folder or not at all."""
CHUNK = 1 << 18
WEIGHTS = "model.safetensors"
CHUNKS = 31
"""Of the demo's weights."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for the module: gRPC finishes calls late, and on the loop they began on."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and no patience."""
    for module in ("core.manifest", "model.manifest", "node.library", "node.partial"):
        monkeypatch.setattr(f"cluster.{module}.CHUNK", CHUNK)
    monkeypatch.setattr("cluster.node.fetch.NOTE_SECONDS", 0.01)
    monkeypatch.setattr("cluster.node.fetch._LOCK_SECONDS", 0.05)
    monkeypatch.setattr("cluster.node.agent.ALIVE_SECONDS", 0.05)


@pytest.fixture(scope="module")
def wanted() -> Wanted:
    return Wanted(MODEL, digest(demo.folder()))


@dataclass
class Node:
    """An agent that listens, and what it was asked for."""

    agent: Agent
    server: NodeServer
    models: Path
    log: list[str]
    asked: list[tuple[str, int]]

    @property
    def address(self) -> str:
        return self.server.address


Start = Callable[..., "asyncio.Future[Node]"]


@pytest.fixture
async def start(tmp_path: Path, wanted: Wanted) -> AsyncIterator[Start]:
    """Starts agents: `await start("a", has=True)`."""
    async with AsyncExitStack() as stack:

        async def one(
            name: str, *, has: bool = False, identity: IdentityFile | None = None, cutter: str = ""
        ) -> Node:
            models, log, asked = tmp_path / name, [], []
            if has:
                shutil.copytree(demo.folder(), models / wanted.digest)
            agent = make_agent(
                models=models, log=log, identity=identity,
                cut_command=(sys.executable, "-I", "-S", "-c", cutter),
            )  # fmt: skip
            server = await NodeServer.start(
                f"127.0.0.{2 + len(os.listdir(tmp_path))}", 0, identity, agent
            )
            agent.address = server.address
            stack.push_async_callback(server.stop)
            stack.push_async_callback(agent.close)
            node = Node(agent, server, models, log, asked)
            on_read(node, lambda _name, _index, data: data)
            return node

        yield one


def on_read(node: Node, change: Callable[[str, int, bytes], bytes]) -> None:
    """Have what a node reads from disk go through `change` before it is sent."""

    async def read_chunk(wanted: Wanted, file: str, index: int) -> AsyncGenerator[bytes, None]:
        node.asked.append((file, index))
        data = b""
        async with aclosing(Agent.read_chunk(node.agent, wanted, file, index)) as pieces:
            async for piece in pieces:
                data += piece
        yield change(file, index, data)

    node.agent.read_chunk = read_chunk  # type: ignore[method-assign]


def spec(wanted: Wanted, *sources: Node, rank: int = 0, world: int = 1) -> LaunchSpec:
    plan = ShardPlan(world, Rank(rank), *(("tensor", "ring") if world > 1 else ()))
    return LaunchSpec(
        Epoch(1), "secret", MODEL, wanted.digest, plan,
        sources=tuple(node.address for node in sources), incarnation=1,
    )  # fmt: skip


async def launch(node: Node, launch: LaunchSpec) -> list[EngineEvent]:
    """All events up to Ready."""
    async with NodeClient(node.address) as client, aclosing(client.launch(launch)) as events:
        return await until(events, Ready)


def check_copy(node: Node, wanted: Wanted) -> None:
    """The model is there, whole, and nothing beside it."""
    folder = node.models / wanted.digest
    assert digest(folder) == wanted.digest
    for path in folder.iterdir():
        assert path.read_bytes() == (demo.folder() / path.name).read_bytes()
    assert not (folder / "__init__.py").exists()
    left = {path.name for path in node.models.iterdir()}
    assert left <= {wanted.digest, f"{wanted.digest}.lock", "hashes"}


def check_nothing(node: Node, wanted: Wanted) -> None:
    assert not (node.models / wanted.digest).exists()


def flip(name: str, index: int, data: bytes) -> bytes:
    """One bit of one chunk."""
    if (name, index) != (WEIGHTS, 7):
        return data
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def swap(name: str, index: int, data: bytes) -> bytes:
    """Two chunks of equal length in each other's place."""
    other = {3: 4, 4: 3}.get(index, index)
    content = (demo.folder() / WEIGHTS).read_bytes()
    return content[other * CHUNK : (other + 1) * CHUNK] if name == WEIGHTS else data


DAMAGE = {
    "a flipped bit": flip,
    "cut short": lambda name, index, data: data[:-1] if index == 7 else data,
    "nothing": lambda name, index, data: b"" if index == 7 else data,
    "too much": lambda name, index, data: data + b"x" if index == 7 else data,
    "swapped": swap,
}


async def test_a_model_comes_from_two_sources(start: Start, wanted: Wanted) -> None:
    a, b, c = await start("a", has=True), await start("b", has=True), await start("c")
    events = await launch(c, spec(wanted, a, b))
    told = [event for event in events if isinstance(event, Loading)]
    assert told[0].what in ("fetching weights", "hashing weights")
    assert told[-1].what == str(c.models / wanted.digest)  # the engine's own
    check_copy(c, wanted)
    assert len(a.asked) + len(b.asked) == len(set(a.asked) | set(b.asked)) == CHUNKS + 5
    assert a.asked and b.asked
    # It is here now: nobody is asked again.
    await c.agent.stop("secret", 1)
    await launch(c, spec(wanted, a, b))
    assert len(a.asked) + len(b.asked) == CHUNKS + 5


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_on_the_way_is_never_loaded(start: Start, wanted: Wanted, what: str) -> None:
    bad, good, here = await start("a", has=True), await start("b", has=True), await start("c")
    on_read(bad, DAMAGE[what])
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors") as caught:
        await launch(here, spec(wanted, bad))
    assert bad.address in str(caught.value)
    check_nothing(here, wanted)
    # With another source it is found at once, and mended.
    await launch(here, spec(wanted, bad, good))
    check_copy(here, wanted)


async def test_files_that_were_swapped_on_disk(
    start: Start, wanted: Wanted, tmp_path: Path
) -> None:
    a, b, here = await start("a", has=True), await start("b", has=True), await start("c")
    folder = a.models / wanted.digest
    one, other = folder / "tokenizer.json", folder / "config.json"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"none of {a.address} has {MODEL}"):
        await launch(here, spec(wanted, a))
    await launch(here, spec(wanted, a, b))
    check_copy(here, wanted)


async def test_a_source_that_lies_about_all_of_it(start: Start, wanted: Wanted) -> None:
    """It gives another model, whose hashes are right."""
    liar, here = await start("a", has=True), await start("b")
    liar.agent._library._find = lambda _: liar.models / wanted.digest  # type: ignore[method-assign]
    config = liar.models / wanted.digest / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ModelUnavailable, match="is not the model with the digest .* thrown away"):
        await launch(here, spec(wanted, liar))
    assert {path.name for path in here.models.iterdir()} == {f"{wanted.digest}.lock"}


async def test_sources_that_differ(start: Start, wanted: Wanted) -> None:
    """A bit that the model's digest does not see: two copies are both doubted, three are not."""
    rotten, good, here = await start("a", has=True), await start("b", has=True), await start("c")
    weights = rotten.models / wanted.digest / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[100_000] ^= 1
    weights.write_bytes(content)
    assert digest(weights.parent) == wanted.digest
    with pytest.raises(ModelUnavailable, match=r"different bytes in model\.safetensors"):
        await launch(here, spec(wanted, rotten, good))
    check_nothing(here, wanted)
    third = await start("d", has=True)
    await launch(here, spec(wanted, rotten, good, third))
    check_copy(here, wanted)
    assert not rotten.asked
    assert any("the latter are not used" in line and rotten.address in line for line in here.log)


async def test_copies_with_other_notes_beside_them(start: Start, wanted: Wanted) -> None:
    """Files that the digest does not cover come from the first source, and from who has them."""
    one, other, here = await start("a", has=True), await start("b", has=True), await start("c")
    (one.models / wanted.digest / "notes.txt").write_text("mine")
    (one.models / wanted.digest / "more.txt").write_text("more")
    (other.models / wanted.digest / "notes.txt").write_text("theirs")

    async def late(wanted: Wanted) -> int | None:
        await asyncio.sleep(0.05)  # the better source is slower to answer
        return await Agent.has(one.agent, wanted)

    one.agent.has = late  # type: ignore[method-assign]
    await launch(here, spec(wanted, one, other))
    folder = here.models / wanted.digest
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "more.txt").read_text() == "more"
    assert digest(folder) == wanted.digest
    assert {name for name, _ in other.asked} <= {path.name for path in demo.folder().iterdir()}
    assert not here.log


async def test_a_source_that_dies_is_replaced(start: Start, wanted: Wanted) -> None:
    dying, other, here = await start("a", has=True), await start("b", has=True), await start("c")
    stopping: list[asyncio.Task[None]] = []

    def die(_name: str, _index: int, data: bytes) -> bytes:
        if len(dying.asked) == 5:
            stopping.append(asyncio.create_task(dying.server._server.stop(0)))
        return data

    on_read(dying, die)
    await launch(here, spec(wanted, dying, other))
    check_copy(here, wanted)
    assert len(dying.asked) < CHUNKS
    await asyncio.gather(*stopping)


async def test_what_is_there_counts_after_a_break(start: Start, wanted: Wanted) -> None:
    source, here = await start("a", has=True), await start("b")

    def fail(name: str, index: int, data: bytes) -> bytes:
        if len(source.asked) > 20:
            raise ModelUnavailable("the disk is gone")
        return data

    on_read(source, fail)
    with pytest.raises(ModelUnavailable, match=r"missing, in model\.safe.*the disk is gone.*kept"):
        await launch(here, spec(wanted, source))
    check_nothing(here, wanted)
    before = len(source.asked)
    # A write that was torn when the machine went down, noted as done.
    torn = here.models / f"{wanted.digest}.partial" / "files" / WEIGHTS
    content = bytearray(torn.read_bytes())
    content[0] ^= 1
    torn.write_bytes(content)
    on_read(source, lambda name, index, data: data)
    await launch(here, spec(wanted, source))
    check_copy(here, wanted)
    again = source.asked[before:]
    assert (WEIGHTS, 0) in again
    assert 10 <= len(again) <= CHUNKS + 5 - 18 + 1


async def test_being_stopped_and_going_on(start: Start, wanted: Wanted) -> None:
    source, here = await start("a", has=True), await start("b")
    gate = asyncio.Event()

    async def read_chunk(wanted: Wanted, file: str, index: int) -> AsyncGenerator[bytes, None]:
        if len(source.asked) > 10:
            await gate.wait()
        source.asked.append((file, index))
        async for piece in Agent.read_chunk(source.agent, wanted, file, index):
            yield piece

    source.agent.read_chunk = read_chunk  # type: ignore[method-assign]
    task = asyncio.create_task(launch(here, spec(wanted, source)))
    await wait_for(lambda: len(source.asked) > 10)
    assert await here.agent.stop("secret", 1) == 1
    with pytest.raises(LaunchFailed, match="was stopped before it had begun"):
        await task
    assert here.agent.engines == 0
    assert not [t for t in asyncio.all_tasks() if "fetch weights" in t.get_name()]
    check_nothing(here, wanted)
    gate.set()
    on_read(source, lambda name, index, data: data)
    before = len(source.asked)
    await launch(here, spec(wanted, source))
    check_copy(here, wanted)
    assert len(source.asked) - before <= CHUNKS + 5 - 9


async def test_two_ranks_of_a_machine_fetch_once(start: Start, wanted: Wanted) -> None:
    source, here = await start("a", has=True), await start("b")
    specs = [spec(wanted, source, rank=rank, world=2) for rank in range(2)]
    both = await asyncio.gather(*(launch(here, each) for each in specs))
    check_copy(here, wanted)
    assert len(source.asked) == CHUNKS + 5
    assert any(Loading("waiting for weights", 0.0) in events for events in both)


async def test_a_full_disk(start: Start, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    source, here = await start("a", has=True), await start("b")
    usage = SimpleNamespace(free=(1 << 30) + (1 << 20))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        ModelUnavailable, match=r"0\.00749 GiB of weights .* 1 GiB are free .* TANDEM_MODELS"
    ):
        await launch(here, spec(wanted, source))
    assert not source.asked
    usage.free = 2 << 30
    await launch(here, spec(wanted, source))
    check_copy(here, wanted)


async def test_a_disk_that_fills_up_meanwhile(
    start: Start, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, here = await start("a", has=True), await start("b")
    pwrite, written = os.pwrite, []

    def full(descriptor: int, data: bytes, place: int) -> int:
        written.append(place)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, place)

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(ModelUnavailable, match="can't keep weights in .*: No space left"):
        await launch(here, spec(wanted, source))
    check_nothing(here, wanted)
    monkeypatch.undo()


async def test_a_folder_that_can_not_be_made(start: Start, wanted: Wanted) -> None:
    source, here = await start("a", has=True), await start("b")
    here.models.write_text("a file")
    with pytest.raises(ModelUnavailable, match="can't keep weights in .*/b: "):
        await launch(here, spec(wanted, source))


async def test_two_callers_hash_once(
    start: Start, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an agent that is closed meanwhile does not go on reading."""
    source = await start("a", has=True)
    gate, read = threading.Event(), []

    def hash_chunk(file: Path, index: int) -> bytes:
        read.append((file.name, index))
        gate.wait(10)
        return b"h" * 32

    monkeypatch.setattr("cluster.model.manifest.hash_chunk", hash_chunk)
    monkeypatch.setattr("cluster.node.library.TELL_SECONDS", 0.01)
    told: list[Loading] = []
    async with NodeClient(source.address) as client:
        asking = [asyncio.create_task(client.manifest(wanted, told.append)) for _ in range(2)]
        await wait_for(lambda: len(told) > 4)
        (making,) = source.agent._library._making.values()
        closing = asyncio.create_task(source.agent.close())
        await wait_for(lambda: making.stopped)
        gate.set()
        for each in asking:
            with pytest.raises(ModelUnavailable, match="agent is stopping"):
                await each
        await closing
    assert set(told) == {Loading("hashing weights", 0.0)}
    assert len(read) < CHUNKS
    assert not source.agent._library._making


CUTTERS = {
    "says why": (
        """print('{"event": "failed", "error": "CannotShard", "message": "3 heads"}'); exit(1)""",
        ": 3 heads$",
    ),
    "dies": (
        "import os; os.mkdir(eval(input())['into']); print('no memory', flush=True); os._exit(3)",
        "cutting /nowhere/a-model failed: no memory",
    ),
    "cuts nothing": ("input()", "cutting /nowhere/a-model failed: it said nothing"),
}  # fmt: skip


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the whole model, but for half of it."""
    usage = SimpleNamespace(free=(1 << 30) + (6 << 20))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)


@pytest.mark.parametrize("how", CUTTERS)
async def test_a_cut_that_fails(
    start: Start, wanted: Wanted, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of cuts that succeed is compared in tests/e2e/test_weights.py."""
    code, words = CUTTERS[how]
    no_room(monkeypatch)
    source, here = await start("a", has=True, cutter=code), await start("b")
    with pytest.raises(ModelUnavailable, match=words):
        await launch(here, spec(wanted, source, rank=1, world=2))
    assert any("only the part of rank 1 is fetched" in line for line in here.log)
    assert not list((source.models / "cuts").glob("*/*"))
    # For one rank alone there is no part to be had.
    with pytest.raises(ModelUnavailable, match="do not fit on the disk"):
        await launch(here, spec(wanted, source))


async def test_a_cut_that_nobody_waits_for_is_ended(
    start: Start, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room(monkeypatch)
    source = await start("a", has=True, cutter="import time; time.sleep(60)")
    here = await start("b")
    before = children()
    task = asyncio.create_task(launch(here, spec(wanted, source, rank=1, world=2)))
    await wait_for(lambda: children() - before)
    await here.agent.stop("secret", 1)
    with pytest.raises(LaunchFailed):
        await task
    await wait_for(lambda: not children() - before)
    await wait_for(lambda: not source.agent._library._cutter._lock.locked())


@pytest.mark.parametrize(
    "name", ["../../evil.json", "/tmp/evil.json", "evil.py", "sub/evil.json", "__init__.py"]
)
async def test_a_manifest_that_leads_elsewhere(
    start: Start, wanted: Wanted, tmp_path: Path, name: str
) -> None:
    evil, here = await start("a", has=True), await start("b")

    async def manifest(wanted: Wanted) -> AsyncGenerator[Loading | Manifest, None]:
        async for event in Agent.manifest(evil.agent, wanted):
            if isinstance(event, Manifest):
                event = Manifest((*event.files, ModelFile(name, 1, (b"h" * 32,))))
            yield event

    evil.agent.manifest = manifest  # type: ignore[method-assign]
    with pytest.raises(ModelUnavailable, match="which no model needs"):
        await launch(here, spec(wanted, evil))
    assert not evil.asked
    assert not any("evil" in name for _, _, names in os.walk(tmp_path) for name in names)


@pytest.mark.parametrize(
    "name",
    ["../hashes", "/etc/passwd", "config.json/../__init__.py", "__init__.py", "", "config.json\0"],
)
async def test_only_files_of_the_manifest_are_given(
    start: Start, wanted: Wanted, name: str
) -> None:
    node = await start("a", has=True)
    async with NodeClient(node.address) as client:
        assert len(await client.read_chunk(wanted, "config.json", 0, CHUNK)) == 560
        for file, index in ((name, 0), ("config.json", 1), ("config.json", 1 << 31)):
            with pytest.raises(ModelUnavailable, match="there is no chunk"):
                await client.read_chunk(wanted, file, index, CHUNK)


async def test_a_digest_is_no_way_into_another_folder(
    start: Start, wanted: Wanted, tmp_path: Path
) -> None:
    """A launch with such a digest fetches nothing; the engine is left to refuse it."""
    source, here = await start("a", has=True), await start("b")
    launched = replace(spec(wanted, source), model="ready", model_digest=f"../a/{wanted.digest}")
    await launch(here, launched)
    assert not source.asked
    assert not here.models.exists()


async def test_a_model_that_is_not_there(start: Start, wanted: Wanted) -> None:
    node = await start("a")
    async with NodeClient(node.address) as client:
        assert await client.has(wanted) is None
        with pytest.raises(ModelUnavailable, match="this machine has no /nowhere/a-model"):
            await client.manifest(wanted, lambda _: None)
        with pytest.raises(ModelUnavailable, match="this machine has no /nowhere/a-model"):
            await client.read_chunk(wanted, WEIGHTS, 0, CHUNK)


async def test_a_model_that_a_path_names(start: Start, wanted: Wanted, tmp_path: Path) -> None:
    """Found by its path, if it is the same model; another one at that path is not used."""
    node = await start("a")
    async with NodeClient(node.address) as client:
        assert await client.has(replace(wanted, model="demo"))
        assert await client.has(replace(wanted, model=str(demo.folder())))
        assert await client.has(Wanted("demo", "0" * 64)) is None


async def test_weights_are_for_members_alone(start: Start, wanted: Wanted, tmp_path: Path) -> None:
    """Over mutual TLS, between two nodes; a machine without a certificate gets none."""
    async with trust.running(tmp_path / "authority") as cluster:
        identities = [cluster.joined(tmp_path / name) for name in ("x", "y")]
        source = await start("a", has=True, identity=identities[0])
        here, stranger = await start("b", identity=identities[1]), await start("c")
        coordinator = cluster.trust.identity
        async with NodeClient(here.address, coordinator) as client:
            await until(client.launch(spec(wanted, source)), Ready)
        check_copy(here, wanted)
        with pytest.raises(ModelUnavailable, match=f"none of {source.address} has .* reached"):
            await launch(stranger, spec(wanted, source))
        check_nothing(stranger, wanted)


async def test_who_has_it(start: Start, wanted: Wanted) -> None:
    a, b, c = await start("a", has=True), await start("b"), await start("c", has=True)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(NodeClient(node.address)) for node in (a, b, c)]
        members = [Member(client, await client.describe(), 1) for client in clients]
        assert await find_sources(members, MODEL, wanted.digest) == (a.address, c.address)
        await c.server.stop()
        assert await find_sources(members, MODEL, wanted.digest) == (a.address,)
        assert await find_sources(members, MODEL, "") == ()
