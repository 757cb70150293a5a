"""Prefixes that outlive their engines: saved by one group, restored by the next."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.coordinator.ranks import Ranks
from cluster.core.errors import EpochEnded
from cluster.core.ids import Entry, Slot
from cluster.core.plan import Park, Restore, Save
from cluster.core.shelf import ShelfOrder, Verb
from tests.e2e.engines import Engine, connected, execute, launched, specs
from tests.e2e.test_engine_texts import listen, told
from tests.unit.engine.driver import EPOCH, Plan, compare, reference, texts
from tests.unit.engine.models import TRIMMABLE, write_model

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

ENTRY = Entry("0123456789abcdef" * 2)
NUMBERS = random.Random(3)
KEPT, OTHER, TAIL = ([NUMBERS.randrange(128) for _ in range(n)] for n in (150, 21, 9))


def save(plan: Plan) -> None:
    """Compute KEPT, and save it while another sequence decodes."""
    plan.prefill(1, OTHER)
    plan.prefill(0, KEPT, chunk=70)
    plan.add(
        park=(Park(Slot(0), len(KEPT)),),
        save=(Save(Slot(0), ENTRY, "scope", tuple(KEPT)),),
        decode=(Slot(1),),
        iterations=4,
    )
    # Taken over and written to at once: the save must not see it.
    plan.prefill(0, [*KEPT, *OTHER], keep=len(KEPT))
    plan.decode(1, 0, iterations=4)


@pytest.mark.parametrize(
    ("kind", "world", "bits"),
    [
        ("llama", 1, 0),
        ("llama", 1, 8),
        ("gpt_oss", 2, 0),
        ("qwen3_5", 2, 0),  # more kinds, but without the restart: test_engine_texts.py
    ],
)
async def test_the_text_after_a_restart(kind: str, world: int, bits: int, tmp_path: Path) -> None:
    folder, kv_dir = write_model(tmp_path / kind, kind, head_dim=32), str(tmp_path / "kv")
    plan = Plan()
    async with (
        launched(folder, world, EPOCH, kv_bits=bits, kv_dir=kv_dir) as engines,
        connected(engines) as clients,
    ):
        ranks = Ranks(clients)
        assert ranks.shelved() == ()
        save(plan)
        results = await execute(clients, plan.steps)
        before = texts(plan.steps, results[0])
        news = await asyncio.wait_for(ranks.next_news(), 30)
        assert (news.verb, news.entry, news.ok) == (Verb.SAVE, ENTRY, True)
    async with (
        launched(folder, world, EPOCH, kv_bits=bits, kv_dir=kv_dir) as engines,
        connected(engines) as clients,
    ):
        ranks = Ranks(clients)
        (found,) = ranks.shelved()
        assert (found.entry, found.scope, found.ids) == (ENTRY, "scope", tuple(KEPT))
        await ranks.order(ShelfOrder(Verb.STAGE, ENTRY))
        await ranks.order(ShelfOrder(Verb.STAGE, ENTRY))
        assert (await asyncio.wait_for(ranks.next_news(), 30)).ok
        assert (await asyncio.wait_for(ranks.next_news(), 30)).ok
        plan = Plan()
        plan.prefill(5, OTHER)
        prompts = {6: [*KEPT, *TAIL], 7: [*KEPT, *OTHER]}
        for slot, prompt in prompts.items():
            keep = 100 if kind in TRIMMABLE and slot == 6 else len(KEPT)
            plan.prefill(slot, prompt, keep=keep, restore=(Restore(Slot(slot), ENTRY),))
        plan.decode(5, 6, 7, iterations=8)
        results = await execute(clients, plan.steps)
    after = texts(plan.steps, results[0])
    assert after[7][:5] == before[100]
    model = load_model(folder)[0]
    for slot, prompt in prompts.items() if not bits else ():
        compare(model, prompt, after[slot], reference(model, prompt, len(after[slot])))


async def test_nothing_is_restored_that_is_not_staged(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    plan = Plan()
    plan.prefill(0, OTHER, keep=5, restore=(Restore(Slot(0), ENTRY),))
    async with (
        launched(folder, 1, EPOCH, kv_dir=str(tmp_path / "kv")) as engines,
        connected(engines) as clients,
    ):
        with pytest.raises(EpochEnded, match="is not staged"):
            await execute(clients, plan.steps)


async def test_a_folder_that_can_not_be_written_to_is_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    (tmp_path / "file").write_text("")
    (spec,) = specs(folder, 1, EPOCH, kv_dir=os.fspath(tmp_path / "file"))
    engine = Engine(spec)
    try:
        event = await asyncio.to_thread(engine.until, "ready")
    finally:
        engine.end()
    assert (event["event"], event["error"]) == ("failed", "BadConfiguration")
    assert "--kv-dir" in event["message"]


async def test_a_new_coordinator_finds_what_the_one_before_has_saved(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    plan = Plan()
    save(plan)
    kv_dir = str(tmp_path / "kv")
    async with launched(folder, 1, EPOCH, kv_dir=kv_dir) as engines:
        async with connected(engines) as clients:
            news = listen(clients)
            await execute(clients, plan.steps)
            await told(news, 1, Verb.SAVE)
            # What nobody needs any more, and a step that does.
            await clients[0].order(ShelfOrder(Verb.STAGE, ENTRY))
            await told(news, 1, Verb.STAGE)
            await clients[0].order(ShelfOrder(Verb.STAGE, Entry("f" * 32)))
        async with connected(engines, incarnation=2) as clients:
            news = listen(clients)
            assert [each.entry for each in clients[0].shelved] == [ENTRY]
            await clients[0].order(ShelfOrder(Verb.STAGE, ENTRY))
            await told(news, 1, Verb.STAGE)
            prompt = [*KEPT, *TAIL]
            again = Plan()
            again.prefill(3, prompt, keep=len(KEPT), restore=(Restore(Slot(3), ENTRY),))
            again.decode(3, iterations=5)
            results = await execute(clients, again.steps)
            assert len(news) == 1
    ours = texts(again.steps, results[0])[3]
    model = load_model(folder)[0]
    compare(model, prompt, ours, reference(model, prompt, len(ours)))
