from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from cluster.core.engine_protocol import PENDING
from cluster.core.errors import StepRefused
from cluster.core.ids import Epoch, Seq, Slot
from cluster.core.plan import Admit, Chunk, Fork, Park, Step
from cluster.core.sampling import Sampling
from tests.unit.engine.driver import EPOCH, GREEDY, Plan, Running, texts
from tests.unit.engine.models import write_model

PROMPT = list(range(30))
WARM = Sampling(temperature=0.9, top_p=0.9, seed=4, frequency_penalty=0.3)
SAME = Sampling(temperature=0.0, logit_bias={9: 100.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    yield running
    running.close()


def a_plan() -> Plan:
    plan = Plan()
    plan.prefill(0, PROMPT, chunk=11, sampling=WARM)
    plan.prefill(1, PROMPT[:7])
    plan.decode(0, 1, iterations=6)
    plan.add()
    plan.add(park=(Park(Slot(1), 4),))
    plan.decode(0, iterations=5, release=(Slot(1),))
    return plan


def test_results_say_what_was_asked_for(running: Running) -> None:
    plan = a_plan()
    results = running.run(plan.steps)
    assert [r.seq for r in results] == list(range(1, len(results) + 1))
    for step, result in zip(plan.steps, results, strict=True):
        assert len(result.decoded) == step.iterations * len(step.decode)
        assert len(result.prefilled) == sum(chunk.sample for chunk in step.chunks)
        assert len(result.chunk_seconds) == len(step.chunks)
        assert all(seconds > 0 for seconds in result.chunk_seconds)
        assert (result.decode_seconds > 0) == bool(step.decode)
        assert result.memory_bytes > 100_000
    assert running.loop.taken == running.loop.answered == len(plan.steps)


@pytest.mark.parametrize("ahead", [1, 2, PENDING])
def test_digests_are_a_function_of_the_plan(folder: Path, running: Running, ahead: int) -> None:
    other = Running(folder)
    plan = a_plan()
    results = running.run(plan.steps)
    again = other.run(plan.steps, ahead=ahead)
    assert [r.digest for r in again] == [r.digest for r in results]
    assert texts(plan.steps, again) == texts(plan.steps, results)
    other.close()


def test_a_seed_says_the_same_however_it_is_batched(folder: Path, running: Running) -> None:
    alone = Plan()
    alone.prefill(0, PROMPT, sampling=WARM)
    alone.decode(0, iterations=20)
    crowd = Plan()
    crowd.prefill(5, PROMPT[:3])
    crowd.prefill(2, PROMPT, sampling=WARM, chunk=9)
    crowd.decode(2, 5, iterations=7)
    crowd.prefill(3, PROMPT, sampling=Sampling(seed=9))
    crowd.decode(5, 3, 2, iterations=13)
    other = Running(folder)
    said = texts(alone.steps, running.run(alone.steps))[0]
    assert texts(crowd.steps, other.run(crowd.steps))[2] == said
    other.close()


def test_seq_and_epoch_must_follow(running: Running) -> None:
    submit = running.loop.submit
    with pytest.raises(StepRefused, match="step 2 after step 0"):
        submit(Step(EPOCH, Seq(2)))
    with pytest.raises(StepRefused, match="epoch 8 in epoch 7"):
        submit(Step(Epoch(8), Seq(1)))
    submit(Step(EPOCH, Seq(1)))
    assert running.result().seq == 1
    with pytest.raises(StepRefused, match="step 1 after step 1"):
        submit(Step(EPOCH, Seq(1)))


def test_the_inbox_is_bounded(running: Running) -> None:
    chunk = Chunk(Slot(0), 0, (1,) * 2000, sample=False)
    submit = running.loop.submit
    submit(Step(EPOCH, Seq(1), admit=(Admit(Slot(0), 0, GREEDY),), chunks=(chunk,)))
    for seq in range(2, PENDING + 1):
        submit(Step(EPOCH, Seq(seq)))
    with pytest.raises(StepRefused, match="not done"):
        submit(Step(EPOCH, Seq(PENDING + 1)))
    assert [running.result().seq for _ in range(PENDING)] == list(range(1, PENDING + 1))
    submit(Step(EPOCH, Seq(PENDING + 1)))
    assert running.result().seq == PENDING + 1


ADMIT = (Admit(Slot(0), 0, GREEDY),)
PREFILL = (Chunk(Slot(0), 0, (1, 2, 3), sample=True),)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"release": (Slot(4),)}, "slot 4 is empty"),
        ({"park": (Park(Slot(4), 0),)}, "slot 4 is empty"),
        ({"park": (Park(Slot(0), 4),)}, "holds 3 positions"),
        ({"fork": (Fork(Slot(0), Slot(0), 1),)}, "taken"),
        ({"admit": (Admit(Slot(1), 1, GREEDY),)}, "holds 0"),
        ({"decode": (Slot(0), Slot(0)), "iterations": 1}, "twice"),
        ({"decode": (Slot(0),), "iterations": 0}, "0 iterations"),
        ({"iterations": 1}, "1 iterations"),
        ({"decode": (Slot(4),), "iterations": 1}, "slot 4 is empty"),
        ({"chunks": (Chunk(Slot(0), 2, (1,), sample=False),)}, "starts at 2, its cache holds 3"),
        ({"chunks": (Chunk(Slot(0), 3, (), sample=False),)}, "no tokens"),
        ({"chunks": (Chunk(Slot(0), 3, (128,), sample=False),)}, "outside"),
        ({"chunks": (Chunk(Slot(0), 3, (-1,), sample=False),)}, "outside"),
    ],
)
def test_what_cant_be_meant_ends_the_loop(
    running: Running, parts: dict[str, object], words: str
) -> None:
    running.run([Step(EPOCH, Seq(1), admit=ADMIT, chunks=PREFILL)])
    running.loop.submit(Step(EPOCH, Seq(2), **parts))  # type: ignore[arg-type]
    with pytest.raises(StepRefused, match=words):
        running.result()
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_decoding_needs_a_sampled_token(running: Running) -> None:
    chunk = Chunk(Slot(0), 0, (1, 2, 3), sample=False)
    running.run([Step(EPOCH, Seq(1), admit=ADMIT, chunks=(chunk,))])
    running.loop.submit(Step(EPOCH, Seq(2), decode=(Slot(0),), iterations=1))
    with pytest.raises(StepRefused, match="no token"):
        running.result()


def test_a_failing_launch_ends_the_loop(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    plan = a_plan()
    running.run(plan.steps[:5])
    monkeypatch.setattr(running.executor, "_decode", fail)
    running.loop.submit(Step(EPOCH, Seq(6), decode=(Slot(0),), iterations=1))
    with pytest.raises(RuntimeError, match="device lost"):
        running.result()
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_an_idle_loop_uses_no_cpu(running: Running) -> None:
    running.run(a_plan().steps)
    mx.synchronize()
    before, began = time.process_time(), time.monotonic()
    threading.Event().wait(0.5)
    assert time.process_time() - before < 0.02 * (time.monotonic() - began) + 0.01


def test_a_reset_leaves_nothing_behind(folder: Path, running: Running) -> None:
    fresh = Running(folder)
    expected = fresh.run(a_plan().steps)
    fresh.close()
    plan = a_plan()
    running.run(plan.steps[:4])
    # Two under way, of which nobody hears any more.
    for step in plan.steps[4:6]:
        running.loop.submit(step)
    running.loop.reset(None)
    assert running.loop.taken == 6
    again = running.run(a_plan().steps)
    assert [r.digest for r in again] == [r.digest for r in expected]
    assert texts(plan.steps, again) == texts(plan.steps, expected)
    assert running.loop.taken == running.loop.answered == 6 + len(plan.steps)


def test_a_reset_while_a_launch_is_unsettled(running: Running) -> None:
    """With drafts, the ids of the latest launch are waited for."""
    plan = Plan()
    plan.prefill(0, [5, 6, 7, 8] * 8, sampling=SAME, draft=4)
    for _ in range(3):
        plan.decode(0, iterations=5)
    expected = running.run(plan.steps)
    assert max(expected[-1].counts) > 1  # drafts were right
    running.loop.reset(None)
    for step in plan.steps[:PENDING]:
        running.loop.submit(step)
    running.loop.reset(None)
    again = running.run(plan.steps)
    assert [r.digest for r in again] == [r.digest for r in expected]
    assert running.executor.slots == 1
    running.loop.reset(None)
    running.close()
    assert running.executor.slots == 0


def test_a_timed_step_says_when_its_parts_were_done(running: Running) -> None:
    plan = a_plan()
    before = time.monotonic()
    results = running.run([replace(step, timed=True) for step in plan.steps])
    after = time.monotonic()
    done = before
    for step, result in zip(plan.steps, results, strict=True):
        times = result.times
        assert times is not None
        parts = [*([times.decode] if times.decode else []), *times.chunks]
        assert (times.decode is not None) == bool(step.decode)
        assert len(times.chunks) == len(step.chunks)
        assert before <= times.received <= times.answered <= after
        for begun, end in parts:
            assert max(times.received, done) <= begun < end <= times.answered
            done = end
        for (begun, end), seconds in zip(times.chunks, result.chunk_seconds, strict=True):
            assert end - begun == pytest.approx(seconds)
    assert running.run([Step(EPOCH, Seq(len(plan.steps) + 1))])[0].times is None
