"""Quantized KV: the text of mlx-lm's own quantized caches, and what is refused by name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from cluster.core.errors import BadConfiguration
from cluster.core.ids import Slot
from cluster.core.plan import Fork, Park
from cluster.engine.loader import load
from cluster.placement.kv import check_kv_bits
from tests.unit.engine.driver import ALONE, Plan, Running, texts
from tests.unit.engine.models import write_model

CLOSE = 0.05
"""Another chunk size moves a value by about 1e-6, which can move it to the next quantized one,
and so the logits by more than rounding does."""


def quantized(model: Any, bits: int, group: int) -> list[Any]:
    return [
        QuantizedKVCache(group_size=group, bits=bits) if type(cache) is KVCache else cache
        for cache in make_prompt_cache(model)
    ]


def check(model: Any, caches: tuple[int, int], prompt: Sequence[int], ours: Sequence[int]) -> None:
    """Equal to what mlx-lm generates, up to a place where its two best were close."""
    steps = generate_step(
        mx.array(list(prompt)), model, max_tokens=len(ours), prompt_cache=quantized(model, *caches)
    )
    theirs = [int(token) for token, _ in steps]
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            tokens = mx.array([[*prompt, *theirs[:i]]])
            top = mx.sort(model(tokens, cache=quantized(model, *caches))[0, -1])[-2:].tolist()
            assert top[1] - top[0] < CLOSE, f"token {i}: {a} instead of {b}"
            return


@pytest.mark.parametrize(
    ("kind", "head", "group", "bits"),
    [("llama", 64, 64, 8), ("llama", 64, 64, 4), ("qwen3", 32, 32, 8), ("qwen3_5", 64, 64, 8)],
)
def test_the_text_of_quantized_caches(
    kind: str, head: int, group: int, bits: int, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / kind, kind, head_dim=head)
    rng = random.Random(7)
    a, b, c = ([rng.randrange(128) for _ in range(n)] for n in (300, 41, 12))
    plan = Plan()
    plan.prefill(0, a, chunk=110)
    plan.prefill(1, b)
    plan.decode(0, 1, iterations=6)
    plan.prefill(2, c)
    plan.decode(0, 1, 2, iterations=8)
    prompts = {0: a, 1: b, 2: c}
    if kind != "qwen3_5":
        plan.add(park=(Park(Slot(0), 290),))
        prompts[3] = [*a[:260], *c]
        plan.prefill(3, prompts[3], keep=260, fork=(Fork(Slot(0), Slot(3), 260),))
        plan.decode(2, 1, 3, iterations=7)
    running = Running(folder, kv_bits=bits)
    try:
        ours = texts(plan.steps, running.run(plan.steps))
    finally:
        running.close()
    model = load_model(folder)[0]
    for slot, prompt in prompts.items():
        check(model, (bits, group), prompt, ours[slot])


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gpt_oss", {"head_dim": 64}, "gpt_oss.*sinks"),
        ("deepseek_v3", {"kv_lora_rank": 64, "qk_rope_head_dim": 32}, "deepseek_v3"),
        ("llama", {"head_dim": 16}, "head size"),
    ],
)
def test_what_can_not_be_quantized_is_refused_by_name(
    kind: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / kind, kind, **changes)
    told: list[float] = []
    with pytest.raises(BadConfiguration, match=words):
        load(folder, ALONE, None, told.append, 8)
    assert told == [], "weights were read first"
    config = load_model(folder, lazy=True)[1]
    with pytest.raises(BadConfiguration, match=words):
        check_kv_bits(config, 8)


def test_other_numbers_of_bits_are_refused() -> None:
    check_kv_bits({"model_type": "llama"}, 0)
    with pytest.raises(BadConfiguration, match="8 and 4"):
        check_kv_bits({"model_type": "llama"}, 3)
