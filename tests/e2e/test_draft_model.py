"""A draft model on rank 0 of real engines: every rank learns its ids, and the text stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from cluster.core.ids import Slot
from cluster.core.plan import Park
from cluster.core.sampling import Sampling
from tests.e2e.cluster_process import serving
from tests.e2e.engines import Engine, connected, execute, launched, specs
from tests.unit.engine.driver import EPOCH, Plan, compare, reference, texts
from tests.unit.engine.models import write_model
from tests.unit.engine.test_speculation import prompts_of

MILD = Sampling(temperature=0.3, top_p=0.95, seed=3)
LLAMA_BYTES = 100 << 20
"""Less than the random 30M llama takes."""


@pytest.mark.anyio
@pytest.mark.parametrize("world", [1, 2])
async def test_the_text_is_the_same_on_every_number_of_ranks(world: int, tmp_path: Path) -> None:
    """Rows join, pause and leave. The model drafts for itself: most is right in greedy text, and
    less where ids are drawn."""
    folder = write_model(tmp_path / "llama", "llama")
    a, b, c = prompts_of(20, 33, 7)
    plan = Plan()
    plan.prefill(0, a, draft=8)
    plan.decode(0, iterations=3)
    plan.prefill(1, b, draft=8, sampling=MILD)
    plan.prefill(2, b, sampling=MILD)
    plan.decode(0, 1, 2, iterations=6)
    plan.prefill(3, c, draft=8)
    plan.decode(3, 1, 2, iterations=4)
    plan.add(park=(Park(Slot(0), len(a)),))
    plan.decode(3, iterations=3)
    plan.decode(2, iterations=30)
    async with (
        launched(folder, world, EPOCH, draft=folder) as engines,
        connected(engines) as clients,
    ):
        results = await execute(clients, plan.steps)
    assert len({tuple(result.digest for result in rank) for rank in results}) == 1
    ours = texts(plan.steps, results[0])
    model = load_model(folder)[0]
    for slot, prompt in {0: a, 3: c}.items():
        compare(model, prompt, ours[slot], reference(model, prompt, len(ours[slot])))
    assert ours[1] == ours[2][: len(ours[1])]
    assert len(ours[0]) > 30, "most of what is drafted is accepted"
    assert len(ours[1]) > 1 + 6 + 4


def test_another_draft_model_than_the_coordinators_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    (spec,) = specs(folder, 1, EPOCH, draft=folder)
    engine = Engine(replace(spec, draft_digest="0" * 64))
    try:
        event = engine.until("failed")
        assert (event["event"], event["error"]) == ("failed", "VersionMismatch")
    finally:
        engine.end()


def test_serve_says_the_same_with_it(random_model: Callable[[str], Path]) -> None:
    """Only rank 0 holds the draft model, which knows nothing of the other's text."""
    model, draft = (str(random_model(name)) for name in ("qwen3", "llama_30m"))
    with serving("--model", model, "--draft-model", draft, "--local-ranks", "2") as server:
        assert "drafts by llama_30m" in server.output
        asked = {"max_tokens": 60, "temperature": 0.9, "seed": 5}
        # A least length takes drafts out of a request.
        answers = [server.chat("hello", **asked, **more) for more in ({}, {"min_tokens": 1})]
        said, plain = (answer["choices"][0]["message"] for answer in answers)
        assert said == plain
        view = server.cluster()
        assert view["model"]["draft"] == "llama_30m"
        first, second = (rank["peak_bytes"] for rank in view["ranks"])
        assert second + LLAMA_BYTES < first <= view["model"]["rank_bytes"]
