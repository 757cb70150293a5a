"""Every way to a text gives plain mlx-lm's text, on every number of ranks.

Alone, in a ragged batch, joined late, on a reused prefix (whole or cut), speculated, and
restored from disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Entry, Slot
from cluster.core.plan import Admit, Chunk, Fork, Park, Restore, Save
from cluster.core.sampling import Sampling
from cluster.core.shelf import ShelfNews, ShelfOrder, Verb
from cluster.wire.engine_client import EngineClient
from tests.e2e.engines import DEADLINE, connected, execute, launched
from tests.unit.engine.driver import EPOCH, GREEDY, Plan, compare, reference, texts
from tests.unit.engine.models import TRIMMABLE, write_model

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

KINDS = ("llama", "qwen3", "qwen3_moe", "deepseek_v3", "gpt_oss", "qwen3_5")
WARM = Sampling(temperature=0.8, top_p=0.95, seed=3)
ENTRY = Entry("0123456789abcdef" * 2)
A, B, C, D, E = 150, 21, 9, 30, 12
LAYERS = {"qwen3_5": 4}
"""As many as show every kind of layer; else two: each is two collectives, and four ranks that
spin on two cores take 0.05 s for one."""


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(128) for _ in range(length)] for length in lengths]


def a_plan(model: Any, *, trimmable: bool) -> tuple[Plan, dict[int, list[int]]]:
    """All but the restore; and the prompts of the greedy slots."""
    a, b, c, d, _ = prompts_of(A, B, C, D, E)
    plan = Plan()
    parts = (Chunk(Slot(0), 0, tuple(a[:70]), False), Chunk(Slot(0), 70, tuple(a[70:]), False))
    plan.add(admit=(Admit(Slot(0), 0, GREEDY),), chunks=parts)
    plan.add(park=(Park(Slot(0), A),), save=(Save(Slot(0), ENTRY, "", tuple(a)),))
    plan.prefill(1, b)
    plan.decode(1, iterations=3)
    plan.prefill(2, [*a, *c], keep=A, fork=(Fork(Slot(0), Slot(2), A),))
    plan.prefill(9, b, sampling=WARM)
    plan.decode(2, 1, 9, iterations=4)
    prompts = {1: b, 2: [*a, *c], 4: d}
    # A drafter that was shown the text will find it again.
    shown = [*d, *reference(model, d, 60), *d]
    plan.prefill(4, d, draft=8, history=shown)
    if trimmable:
        prompts[3] = [*a[:60], *c]
        plan.prefill(3, prompts[3], keep=60, fork=(Fork(Slot(0), Slot(3), 60),))
    rows = [slot for slot in (4, 3, 2, 1, 9) if slot in prompts or slot == 9]
    plan.decode(*rows, iterations=5)
    plan.decode(1, 4, iterations=2)
    plan.decode(4, iterations=2)
    return plan, prompts


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_way_to_a_text(kind: str, world: int, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind, num_hidden_layers=LAYERS.get(kind, 2))
    trimmable = kind in TRIMMABLE
    model = load_model(folder)[0]
    plan, prompts = a_plan(model, trimmable=trimmable)
    async with (
        launched(folder, world, EPOCH, kv_dir=str(tmp_path / "kv")) as engines,
        connected(engines) as clients,
    ):
        facts = [client.hello.facts for client in clients]
        assert all(fact is not None and fact.trimmable == trimmable for fact in facts)
        news = listen(clients)
        results = await execute(clients, plan.steps)
        await told(news, world, Verb.SAVE)
        for client in clients:
            await client.order(ShelfOrder(Verb.STAGE, ENTRY))
        await told(news, world, Verb.STAGE)
        done = len(plan.steps)
        a, *_, e = prompts_of(A, B, C, D, E)
        prompts[5] = [*a, *e]
        plan.prefill(5, prompts[5], keep=A, restore=(Restore(Slot(5), ENTRY),))
        plan.decode(5, 1, iterations=3)
        more = await execute(clients, plan.steps[done:])
    together = [[*first, *second] for first, second in zip(results, more, strict=True)]
    digests = {tuple(result.digest for result in rank) for rank in together}
    assert len(digests) == 1
    ours = texts(plan.steps, together[0])
    for slot, prompt in prompts.items():
        compare(model, prompt, ours[slot], reference(model, prompt, len(ours[slot])))
    most = max((max(result.counts, default=1) for result in results[0]), default=1)
    assert (most > 2) == trimmable, "drafts are accepted where there can be any"


def listen(clients: Sequence[EngineClient]) -> list[ShelfNews]:
    """What the shelves of all ranks tell from now on."""
    news: list[ShelfNews] = []
    for client in clients:
        client.on_news = news.append
    return news


async def told(news: list[ShelfNews], world: int, verb: Verb) -> None:
    """Return once every rank has told of `verb`, and that it went well."""
    async with asyncio.timeout(DEADLINE):
        while sum(each.verb is verb for each in news) < world:
            await asyncio.sleep(0.01)
    assert all(each.ok for each in news), news
