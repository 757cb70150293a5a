"""A stage hands each forward pass to MLX before the next one is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache

from cluster.core.errors import CannotShard
from cluster.engine import stage
from cluster.engine.loader import lazy_model
from cluster.engine.ragged import RaggedRows
from cluster.placement.layers import stages
from tests.unit.engine.models import write_model


def ends_in(cache: Any) -> Any:
    """A model of one layer that ties something to its cache's keys, as mlx-lm's do."""

    def model(tokens: mx.array, cache: list[Any]) -> mx.array:
        last = cache[-1][0] if isinstance(cache[-1], CacheList) else cache[-1]
        last.keys = mx.depends(last.keys, mx.ones(1))
        return mx.zeros((*tokens.shape, 5))

    return model


def filled(cache: Any) -> Any:
    cache.update_and_fetch(mx.ones((1, 2, 3, 32)), mx.ones((1, 2, 3, 32)))
    return cache


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("kind", ["plain", "quantized", "list", "ragged"])
def test_caches_are_handed_over_and_logits_that_are_asked_for(
    kind: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[mx.array]] = []
    monkeypatch.setattr(stage.mx, "async_eval", started.append)
    cache: Any = filled(KVCache())
    match kind:
        case "quantized":
            cache = filled(QuantizedKVCache(group_size=32, bits=8))
        case "list":
            cache = CacheList(cache, filled(KVCache()))
        case "ragged":
            rows = RaggedRows([cache])
            rows.join([cache], 3)
            cache = rows.caches[0]
    width = 1 if asked else 300
    logits = stage.Stage(ends_in(cache))(mx.zeros((1, width), dtype=mx.int32), cache=[cache])
    (arrays,) = started
    assert any(array is logits for array in arrays) == asked
    keys = cache[0].keys if kind == "list" else cache.keys
    if kind == "quantized":
        assert isinstance(keys, tuple), "what a batch takes it for"
        assert any(array is keys[0] for array in arrays)
    else:
        assert any(array is keys for array in arrays)


class Place:
    """Stands in for a group."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = lambda: rank, lambda: size


KINDS = ("qwen2", "qwen3_moe", "deepseek_v3", "qwen3_5")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(), (1, 4, 1), (4, 1, 1)])
def test_each_rank_has_the_layers_it_is_told(
    kind: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_model(tmp_path, kind, num_hidden_layers=6)
    want = stages(range(6), 3, "pipeline", counts)
    for rank in range(3):
        model = lazy_model(folder)
        before = list(model.layers)
        stage.pipeline(model, Place(rank, 3), counts)  # type: ignore[arg-type]
        kept = set(map(id, model.layers))
        assert [i for i, layer in enumerate(before) if id(layer) in kept] == list(want[rank])


@pytest.mark.parametrize("counts", [(1, 2, 4), (3, 3), (6, 0, 0)])
def test_stages_that_do_not_make_the_model(counts: tuple[int, ...], tmp_path: Path) -> None:
    model = lazy_model(write_model(tmp_path, "qwen2", num_hidden_layers=6))
    with pytest.raises(CannotShard, match="can't make 3 stages"):
        stage.pipeline(model, Place(0, 3), counts)  # type: ignore[arg-type]


def test_a_model_without_a_pipeline_is_refused() -> None:
    with pytest.raises(CannotShard, match="no pipeline"):
        stage.pipeline(object(), None)  # type: ignore[arg-type]
