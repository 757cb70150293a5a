"""Engines as stages of a pipeline: the same text as plain mlx-lm on one rank."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Slot
from cluster.core.plan import Fork, Park
from cluster.model.config import read_config
from cluster.model.weights import tensor_bytes
from cluster.placement.memory import rank_cache_bytes
from cluster.placement.weights import sum_weights
from tests.e2e.engines import connected, execute, launched
from tests.unit.engine.driver import EPOCH, Plan, compare, reference, texts
from tests.unit.engine.models import TRIMMABLE, write_model

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


def a_plan(trimmable: bool) -> tuple[Plan, dict[int, list[int]]]:
    """Chunks that sample and that don't, a last chunk forwarded in two, rows of so different
    lengths that they are two batches, joins and leaves, a fork."""
    rng = random.Random(6)
    a, b, c = ([rng.randrange(128) for _ in range(n)] for n in (2300, 330, 9))
    plan = Plan()
    plan.prefill(1, b, chunk=150)  # 150, 150, 30
    plan.decode(1, iterations=3)
    plan.prefill(0, a, chunk=1000)  # the last one, of 300, is forwarded in two
    plan.decode(0, 1, iterations=5)
    plan.prefill(2, c)
    plan.decode(0, 1, 2, iterations=6)
    prompts = {0: a, 1: b, 2: c}
    if trimmable:
        plan.add(park=(Park(Slot(1), 200),))
        d = [*b[:100], *c]
        plan.prefill(3, d, keep=100, fork=(Fork(Slot(1), Slot(3), 100),))
        plan.decode(2, 3, iterations=7)
        prompts[3] = d
    return plan, prompts


@pytest.mark.parametrize(
    ("kind", "world", "layers", "stages"),
    [
        ("qwen2", 2, 3, ()),
        ("deepseek_v3", 2, 2, ()),
        ("qwen3_5", 2, 4, ()),
        ("qwen3_moe", 3, 5, ()),
        ("qwen3_5", 2, 6, (5, 1)),  # a stage without attention
        ("deepseek_v3", 3, 6, (1, 2, 3)),
    ],
)  # fmt: skip
async def test_same_text_on_every_stage(
    kind: str, world: int, layers: int, stages: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / kind, kind, num_hidden_layers=layers)
    plan, prompts = a_plan(kind in TRIMMABLE)
    async with (
        launched(folder, world, EPOCH, parallel="pipeline", layers=stages) as engines,
        connected(engines) as clients,
    ):
        results = await execute(clients, plan.steps)
        facts = [client.hello.facts for client in clients]
    first, *others = results
    for other in others:
        assert [r.digest for r in other] == [r.digest for r in first]
    ours = texts(plan.steps, first)
    model = load_model(folder)[0]
    for slot, prompt in prompts.items():
        compare(model, prompt, ours[slot], reference(model, prompt, len(ours[slot])))
    held = [fact.weight_bytes for fact in facts if fact is not None]
    weights = sum_weights(read_config(folder), tensor_bytes(folder))
    assert held == pytest.approx(weights.by_rank(world, "pipeline", stages), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "parallel", "stages"),
    [
        ("qwen3_5", "pipeline", ()),
        ("qwen3_5", "pipeline", (1, 3)),
        ("qwen3_5", "tensor", ()),
        ("qwen3_moe", "tensor", ()),
    ],
)
async def test_engines_keep_what_was_predicted(
    kind: str, parallel: str, stages: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / kind, kind)
    config = {**read_config(folder), "torch_dtype": "float32"}
    async with (
        launched(folder, 2, EPOCH, parallel=parallel, layers=stages) as engines,
        connected(engines) as clients,
    ):
        facts = [client.hello.facts for client in clients]
    kept = [(fact.position_bytes, fact.slot_bytes) for fact in facts if fact is not None]
    assert kept == rank_cache_bytes(config, 2, parallel, 0, stages)


async def test_stages_with_a_quantized_cache_say_what_one_rank_says(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3_moe", "qwen3_moe", head_dim=64)
    plan, _ = a_plan(trimmable=True)
    said = []
    for world in (1, 2):
        async with (
            launched(folder, world, EPOCH, parallel="pipeline", kv_bits=8) as engines,
            connected(engines) as clients,
        ):
            results = await execute(clients, plan.steps)
        said.append(texts(plan.steps, results[0]))
    assert said[0] == said[1]
