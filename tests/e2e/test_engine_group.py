"""Real groups of engine processes: the same text as plain mlx-lm on one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.core.errors import EpochEnded, NotAuthorized, TandemError, VersionMismatch
from cluster.core.ids import Slot
from cluster.core.plan import Fork, Park
from cluster.core.sampling import Sampling
from cluster.wire.engine_client import connect
from tests.e2e.engines import SECRET, Engine, connected, execute, hello, launched, specs
from tests.integration.cutter import cutting
from tests.unit.engine.driver import EPOCH, Plan, compare, reference, texts
from tests.unit.engine.models import write_model

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

WARM = Sampling(temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=3)


def a_plan() -> tuple[Plan, dict[int, list[int]]]:
    """Chunks, a ragged batch with joins and leaves, a fork, one sampled stream (slot 9).
    More kinds, on more ranks: test_engine_texts.py."""
    rng = random.Random(5)
    a, b, c = ([rng.randrange(128) for _ in range(n)] for n in (150, 21, 9))
    plan = Plan()
    plan.prefill(0, a, chunk=70)
    plan.prefill(1, b)
    plan.prefill(9, b, sampling=WARM, history=b)
    plan.decode(0, 1, 9, iterations=5)
    plan.add(park=(Park(Slot(0), 60),))
    begin = [*a[:60], *c]
    plan.prefill(2, begin, keep=60, fork=(Fork(Slot(0), Slot(2), 60),))
    plan.decode(2, 1, 9, iterations=8)
    plan.decode(9, iterations=3)
    return plan, {0: a, 1: b, 2: begin}


@pytest.mark.parametrize(("kind", "world"), [("llama", 1), ("qwen2", 2)])
async def test_same_text_on_every_rank(kind: str, world: int, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind)
    plan, prompts = a_plan()
    async with launched(folder, world, EPOCH) as engines, connected(engines) as clients:
        results = await execute(clients, plan.steps)
        facts = [client.hello.facts for client in clients]
    assert all(fact is not None and fact.trimmable for fact in facts)
    first, *others = results
    for other in others:
        assert [r.digest for r in other] == [r.digest for r in first]
        assert not any(r.decoded or r.prefilled for r in other)
    ours = texts(plan.steps, first)
    model = load_model(folder)[0]
    for slot, prompt in prompts.items():
        compare(model, prompt, ours[slot], reference(model, prompt, len(ours[slot])))
    kinds = [event["event"] for event in engines[0].events]
    assert kinds[-1] == "ready"
    assert set(kinds[:-1]) == {"loading"}


async def test_a_seed_says_the_same_on_one_rank_and_on_two(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3")
    plan, _ = a_plan()
    said = []
    for world in (1, 2):
        async with launched(folder, world, EPOCH) as engines, connected(engines) as clients:
            results = await execute(clients, plan.steps)
        said.append(texts(plan.steps, results[0])[9])
    assert said[0] == said[1]


async def test_a_lost_rank_ends_the_other(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    plan, _ = a_plan()
    async with launched(folder, 2, EPOCH) as engines, connected(engines) as clients:
        await execute(clients, plan.steps[:4])
        engines[1].process.kill()
        with pytest.raises(EpochEnded, match="rank 0"):
            await execute(clients[:1], plan.steps[4:])
        event = await asyncio.to_thread(engines[0].until, "failed")
        assert event["event"] == "failed"
        assert await asyncio.to_thread(engines[0].process.wait, 10) == 1


async def test_hello_refuses_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    async with launched(folder, 1, EPOCH) as engines:
        (engine,) = engines
        endpoint = engine.events[-1]["endpoint"]

        async def refused(secret: str = SECRET, **changes: object) -> TandemError:
            with pytest.raises(TandemError) as caught:
                async with connect(endpoint, secret, hello(engine.spec, **changes)):
                    pass
            return caught.value

        assert isinstance(await refused(secret="wrong"), NotAuthorized)
        wrong = await refused(model_digest="other")
        assert isinstance(wrong, VersionMismatch)
        assert "digest" in str(wrong)
        async with connect(endpoint, SECRET, hello(engine.spec, incarnation=5)):
            pass
        old = await refused(incarnation=4)
        assert isinstance(old, NotAuthorized)
        assert "replaced" in str(old)


async def test_a_new_coordinator_finds_them_as_new(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    plan, _ = a_plan()
    async with launched(folder, 2, EPOCH) as engines:
        async with connected(engines) as clients:
            expected = await execute(clients, plan.steps)
        async with connected(engines, incarnation=2) as clients:
            await execute(clients, plan.steps[:5])
            for step in plan.steps[5:7]:  # under way when the next one comes
                for client in clients:
                    await client.send(step)
            async with connected(engines, incarnation=3) as newer:
                facts = [client.hello.facts for client in newer]
                taken = {fact.taken for fact in facts if fact is not None}
                assert taken == {len(plan.steps) + 7}
                again = await execute(newer, plan.steps)
            for client in clients:
                with pytest.raises(NotAuthorized, match="coordinator 2 was replaced by 3"):
                    await client.send(plan.steps[7])
                    await client.next_result()
                    await client.next_result()
                    await client.next_result()
        assert [[r.digest for r in rank] for rank in again] == [
            [r.digest for r in rank] for rank in expected
        ]
        assert texts(plan.steps, again[0]) == texts(plan.steps, expected[0])


async def test_a_broken_stream_changes_no_text(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    plan, _ = a_plan()
    async with launched(folder, 2, EPOCH) as engines, AsyncExitStack() as stack:
        async with connected(engines) as clients:
            expected = await execute(clients, plan.steps)
        clients = []
        for engine in engines:
            endpoint = engine.events[-1]["endpoint"]
            cutter = await stack.enter_async_context(cutting(endpoint))
            opened = connect(cutter.endpoint, SECRET, hello(engine.spec, incarnation=2))
            clients.append(await stack.enter_async_context(opened))
            cutter.most = 4000
            cutter.cut()
        again = await execute(clients, plan.steps)
        assert cutter.count > 1
        assert texts(plan.steps, again[0]) == texts(plan.steps, expected[0])


def test_failures_are_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    (single,) = specs(folder, 1, EPOCH)
    first, _, _ = specs(folder, 3, EPOCH)
    cases = {
        "ModelUnavailable": {"model": str(tmp_path / "nowhere")},
        "VersionMismatch": {"model_digest": "0" * 64},
        "CannotShard": {"plan": first.plan, "ring": first.ring},
    }
    for name, changes in cases.items():
        fields = {field: getattr(single, field) for field in single.__slots__}
        engine = Engine(type(single)(**{**fields, **changes}))
        try:
            event = engine.until("failed")
            assert (event["event"], event["error"]) == ("failed", name)
            assert event["message"]
            assert "\n" not in event["message"]
            assert engine.process.wait(10) == 1
        finally:
            engine.end()


async def test_the_end_of_stdin_ends_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    async with launched(folder, 1, EPOCH) as engines:
        process = engines[0].process
        os.kill(process.pid, signal.SIGINT)  # the agent's business
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 1


async def test_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    async with launched(folder, 2, EPOCH) as engines:
        for engine in engines:
            engine.process.terminate()
        for engine in engines:
            assert engine.process.wait(2) == -signal.SIGTERM
