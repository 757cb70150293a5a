"""The agent and real child processes: every way in which an engine's life can go."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.core.cluster import (
    Alive,
    Blas,
    EngineEvent,
    Exited,
    LaunchSpec,
    Loading,
    Ready,
    ShardPlan,
    Started,
)
from cluster.core.errors import (
    CannotShard,
    LaunchFailed,
    NotAuthorized,
    NotFound,
    TandemError,
)
from cluster.core.ids import Epoch, Rank
from cluster.node.agent import Agent
from cluster.node.hardware import Hardware
from cluster.trust.identity import IdentityFile
from tests.conftest import wait_for

pytestmark = pytest.mark.anyio

FAKE_ENGINE = Path(__file__).parents[1] / "unit" / "node" / "fake_engine.py"
NO_MODELS = Path("/nonexistent/models")
COMMAND = (sys.executable, "-I", "-S", str(FAKE_ENGINE))


def make_agent(
    *, command: tuple[str, ...] = COMMAND, grace: float = 30.0, silence: float = 30.0,
    log: list[str] | None = None, kv_dir: str = "", models: Path = NO_MODELS,
    cut_command: tuple[str, ...] = (), identity: IdentityFile | None = None,
) -> Agent:  # fmt: skip
    return Agent(
        "127.0.0.1",
        hardware=Hardware("host", "chip", 2, 8 << 30, 7 << 30, "Linux 6", "id"),
        addresses=(),
        blas=Blas("OpenBLAS", "", True, ""),
        command=command,
        orphan_grace=grace,
        silence=silence,
        say=(log if log is not None else []).append,
        kv_dir=kv_dir,
        models=models,
        cut_command=cut_command,
        identity=identity,
    )


def spec(mode: str, epoch: int = 1, rank: int = 0, threads: int = 0) -> LaunchSpec:
    """Its secret is "secret 1" in epoch 1, and it comes from the coordinator of incarnation 1."""
    plan = ShardPlan(8, Rank(rank), "tensor", "ring")
    secret = f"secret {epoch}"
    return LaunchSpec(Epoch(epoch), secret, mode, "digest", plan, (), threads, incarnation=1)


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


PATIENCE = 0.5
"""Seconds that an engine has to heed SIGTERM; 2 outside of tests."""


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.node.engine_process.TERM_SECONDS", PATIENCE)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    processes = children()
    yield
    await wait_for(lambda: children() <= processes)
    await wait_for(lambda: not [t for t in asyncio.all_tasks() if "engine" in t.get_name()])


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = make_agent()
    yield agent
    await agent.close()
    assert agent.engines == 0


async def until(
    events: AsyncGenerator[EngineEvent, None], kind: type[EngineEvent]
) -> list[EngineEvent]:
    """Events up to the first of a kind."""
    found = []
    async for event in events:
        found.append(event)
        if isinstance(event, kind):
            return found
    raise AssertionError(f"no {kind.__name__} in {found}")


async def everything(agent: Agent, launch: LaunchSpec) -> list[EngineEvent]:
    async with aclosing(agent.launch(launch)) as events:
        return [event async for event in events if not isinstance(event, Alive)]


async def test_a_life_from_start_to_stop(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ready"))) as events:
        found = await until(events, Ready)
        started = found[0]
        assert isinstance(started, Started)
        assert psutil.pid_exists(started.pid)
        assert found[-1] == Ready("127.0.0.1:4711", 0.1)
        alive = (await until(events, Alive))[-1]
        assert isinstance(alive, Alive)
        assert alive.rss_bytes > 1 << 20
        assert await agent.stop("secret 1", 1) == 1
        assert isinstance((await until(events, Exited))[-1], Exited)
        assert [event async for event in events] == []
    assert agent.engines == 0
    assert not psutil.pid_exists(started.pid)


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("fails", CannotShard, r"^heads is 3, which 2 does not divide$"),
        ("fails oddly", LaunchFailed, "failed: KeyError: 'x'"),
        ("dies early", LaunchFailed, r"rank 0 exited with 3 before .* ImportError: no mlx$"),
        ("killed early", LaunchFailed, "was killed by SIGKILL .*: it said nothing"),
    ],
)
async def test_an_engine_that_is_never_ready(
    agent: Agent, mode: str, kind: type[TandemError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await everything(agent, spec(mode))
    assert agent.engines == 0


@pytest.mark.parametrize(
    ("own", "wanted", "used"),
    [("", "", "none"), ("", "/kv", "/kv"), ("/own", "/kv", "/own"), ("/own", "", "none")],
)
async def test_the_folder_for_prefixes(own: str, wanted: str, used: str) -> None:
    agent = make_agent(kv_dir=own)
    with pytest.raises(CannotShard, match=f"^{used}$"):
        await everything(agent, replace(spec("says its folder"), kv_dir=wanted))


async def test_an_engine_that_dies_after_it_was_ready(agent: Agent) -> None:
    found = await everything(agent, spec("dies"))
    assert found[1:] == [Ready("127.0.0.1:4711", 0.1), Exited(7, "out of memory")]
    assert agent.engines == 0


async def test_no_such_program() -> None:
    agent = make_agent(command=("/no/such/python",))
    with pytest.raises(LaunchFailed, match="can't start /no/such/python: No such file"):
        await everything(agent, spec("ready"))
    assert agent.engines == 0


async def test_silence_ends_a_launch() -> None:
    agent = make_agent(silence=0.3)
    with pytest.raises(LaunchFailed, match=r"silent for 0\.3 s after its start"):
        await everything(agent, spec("silent"))
    assert agent.engines == 0


async def test_one_that_came_up_before_is_not_waited_for_as_long(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.node.agent.LEAST_SILENCE", 0.3)
    monkeypatch.setattr("cluster.node.agent.SILENCE_FACTOR", 0.0)
    mode = "silent after the first"
    async with aclosing(agent.launch(spec(mode))) as events:
        await until(events, Ready)
    await agent.stop("secret 1", 1)
    with pytest.raises(LaunchFailed, match=r"silent for 0\.3 s after its start"):
        await everything(agent, spec(mode, epoch=2))
    assert agent.engines == 0


async def test_progress_is_no_silence() -> None:
    agent = make_agent(silence=0.6)
    async with aclosing(agent.launch(spec("loads slowly"))) as events:
        found = await until(events, Ready)
        assert sum(isinstance(event, Loading) for event in found) >= 5
        await agent.close()


async def test_a_download_may_be_silent() -> None:
    agent = make_agent(silence=0.3)
    async with aclosing(agent.launch(spec("downloads"))) as events:
        await until(events, Ready)
        await agent.close()


async def test_an_engine_that_is_ready_may_be_silent() -> None:
    agent = make_agent(silence=0.2)
    async with aclosing(agent.launch(spec("ready"))) as events:
        await until(events, Ready)
        await until(events, Alive)
        await agent.close()


async def test_babble_is_logged_and_bounded() -> None:
    log: list[str] = []
    agent = make_agent(log=log)
    async with aclosing(agent.launch(spec("babbles"))) as events:
        assert isinstance((await until(events, Ready))[-1], Ready)
        await wait_for(lambda: sum(line == "engine 0: line" for line in log) == 100)
        await agent.close()
        exited = (await until(events, Exited))[-1]
    assert isinstance(exited, Exited)
    assert exited.last_words.splitlines() == ["line"] * 40
    assert max(map(len, log)) < 600


@pytest.mark.parametrize("mode", ["ignores SIGTERM", "stopped"])
async def test_an_engine_that_does_not_want_to_die(agent: Agent, mode: str) -> None:
    async with aclosing(agent.launch(spec(mode))) as events:
        found = await until(events, Ready)
        assert isinstance(found[0], Started)
        engine = psutil.Process(found[0].pid)
        if mode == "stopped":
            await wait_for(lambda: engine.status() == psutil.STATUS_STOPPED)
        began = time.monotonic()
        assert await agent.stop("secret 1", 1) == 1
        assert PATIENCE - 0.1 < time.monotonic() - began < PATIENCE + 2
        exited = (await until(events, Exited))[-1]
    assert exited == Exited(-9, "")
    assert not psutil.pid_exists(engine.pid)


async def test_the_children_of_an_engine_go_with_it(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("has a child"))) as events:
        loading = (await until(events, Loading))[-1]
        assert isinstance(loading, Loading)
        await until(events, Ready)
        await agent.stop("secret 1", 1)
    await wait_for(lambda: not psutil.pid_exists(int(loading.what)) or zombie(int(loading.what)))


def zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_stop_is_for_one_epoch(agent: Agent) -> None:
    async with (
        aclosing(agent.launch(spec("ready", 1, 0))) as one,
        aclosing(agent.launch(spec("ready", 1, 1))) as two,
        aclosing(agent.launch(spec("ready", 2, 0))) as three,
    ):
        for events in (one, two, three):
            await until(events, Ready)
        assert await agent.stop("secret 9", 1) == 0
        assert await agent.stop("secret 1", 1) == 2
        assert agent.engines == 1
        await until(three, Alive)
        await agent.close()


async def test_the_same_rank_twice(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ready"))) as events:
        await until(events, Ready)
        with pytest.raises(LaunchFailed, match="rank 0 of epoch 1 already runs"):
            await everything(agent, spec("ready"))
        assert agent.engines == 1
        await agent.stop("secret 1", 1)


async def test_letting_go_kills_after_the_grace() -> None:
    agent = make_agent(grace=0.5)
    async with aclosing(agent.launch(spec("ready"))) as events:
        started = (await until(events, Ready))[0]
    assert isinstance(started, Started)
    let_go = time.monotonic()
    assert psutil.pid_exists(started.pid)
    await wait_for(lambda: not psutil.pid_exists(started.pid))
    assert time.monotonic() - let_go > 0.4
    await wait_for(lambda: agent.engines == 0)


async def test_an_orphan_can_be_stopped_at_once(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ready"))) as events:
        await until(events, Ready)
    assert agent.engines == 1
    assert await agent.stop("secret 1", 1) == 1
    assert agent.engines == 0


async def test_two_coordinators_engines_side_by_side(agent: Agent) -> None:
    """Both count from 1, and neither knows the other's secret."""
    other = replace(spec("ready"), secret="other", incarnation=2)
    async with aclosing(agent.launch(spec("ready"))) as one:
        await until(one, Ready)
        async with aclosing(agent.launch(other)) as two:
            await until(two, Ready)
            assert agent.engines == 2
            assert await agent.stop("nobody's", 3) == 0
            assert await agent.stop("other", 2) == 1
            await until(two, Exited)
        await until(one, Alive)
        with pytest.raises(NotFound, match="no engine of rank 0"):
            await anext(agent.attach("other", Rank(0), 2))
        with pytest.raises(NotFound, match="no engine of rank 0"):
            await anext(agent.attach("nobody's", Rank(0), 3))
        await agent.close()


async def test_a_launch_leaves_alone_what_nobody_holds(agent: Agent) -> None:
    """It may be of another group, whose call broke a moment ago."""
    async with aclosing(agent.launch(spec("ready"))) as events:
        await until(events, Ready)
    async with aclosing(agent.launch(spec("ready", epoch=2))) as events:
        await until(events, Ready)
        assert agent.orphans() == (spec("ready"),)
        async with aclosing(agent.attach("secret 1", Rank(0), 1)) as again:
            await until(again, Ready)
            await agent.close()


async def test_a_coordinator_that_was_replaced_is_refused(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ready"))) as events:
        await until(events, Ready)
        async with aclosing(agent.attach("secret 1", Rank(0), 2)) as taken:
            await until(taken, Ready)
            for _ in range(2):
                with pytest.raises(NotAuthorized, match="coordinator 1 was replaced by 2"):
                    await agent.stop("secret 1", 1)
                with pytest.raises(NotAuthorized, match="coordinator 1 was replaced by 2"):
                    await anext(agent.attach("secret 1", Rank(0), 1))
            await until(taken, Alive)
    assert agent.orphans() == (replace(spec("ready"), incarnation=2),)
    assert await agent.stop("secret 1", 2) == 1
    with pytest.raises(NotAuthorized, match="coordinator 1 was replaced by 2"):
        await agent.stop("secret 1", 1)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.005, 0.02, 0.05])
async def test_cancelled_at_any_moment(after: float) -> None:
    agent = make_agent(grace=0.0)
    task = asyncio.create_task(everything(agent, spec("ready")))
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for(lambda: agent.engines == 0)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.005, 0.02])
async def test_stopped_at_any_moment(agent: Agent, after: float) -> None:
    task = asyncio.create_task(everything(agent, spec("silent")))
    await asyncio.sleep(after)
    await agent.stop("secret 1", 1)
    if after:
        with pytest.raises(LaunchFailed):
            await task
    await agent.close()
    await asyncio.wait([task])
    assert agent.engines == 0
    assert isinstance(task.exception(), LaunchFailed)


async def test_a_stop_whose_caller_is_gone_still_kills(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ignores SIGTERM"))) as events:
        started = (await until(events, Ready))[0]
        stop = asyncio.create_task(agent.stop("secret 1", 1))
        await asyncio.sleep(0.1)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        await until(events, Exited)
    assert isinstance(started, Started)
    assert not psutil.pid_exists(started.pid)


async def test_close_twice_and_during_a_stop(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("ignores SIGTERM"))) as events:
        await until(events, Ready)
        async with asyncio.timeout(4):
            await asyncio.gather(agent.stop("secret 1", 1), agent.close(), agent.close())
    await agent.close()
    with pytest.raises(LaunchFailed, match="is stopping"):
        await everything(agent, spec("ready"))


async def test_eight_engines_die_together(agent: Agent) -> None:
    async def ready(rank: int) -> None:
        async with aclosing(agent.launch(spec("ignores SIGTERM", rank=rank))) as events:
            await until(events, Ready)

    await asyncio.gather(*(ready(rank) for rank in range(8)))
    assert agent.engines == 8
    began = time.monotonic()
    await agent.close()
    assert time.monotonic() - began < 4
    assert agent.engines == 0


async def test_threads_of_the_engine(agent: Agent) -> None:
    async with aclosing(agent.launch(spec("environment", threads=3))) as events:
        loading = (await until(events, Loading))[-1]
        assert isinstance(loading, Loading)
        assert json.loads(loading.what)["OPENBLAS_NUM_THREADS"] == "3"
        await agent.stop("secret 1", 1)
