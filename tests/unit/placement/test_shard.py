"""check_plan against mlx-lm's own models, and the words it refuses with."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.models.pipeline import PipelineMixin

from cluster.core.errors import BadConfiguration, CannotShard
from cluster.placement.shard import (
    EQUAL_STAGES,
    PIPELINABLE,
    SHARDABLE,
    check_plan,
    has_unequal_stages,
    possible_worlds,
)

LLAMA = {
    "model_type": "llama", "hidden_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 768, "num_hidden_layers": 4,
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 4, "intermediate_size": 6145, "moe_intermediate_size": 768,
    "num_experts": 128, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip


def models_folder() -> Path:
    return Path(str(distribution("mlx-lm").locate_file("mlx_lm/models")))


def classes_with_shard() -> set[str]:
    """Modules whose Model has shard(), inherited or imported from another module included."""
    own: set[str] = set()
    parents: dict[str, set[str]] = {}
    for path in models_folder().glob("*.py"):
        tree = ast.parse(path.read_text())
        aliases: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name
                    if alias.name == "Model" and node.module:
                        aliases[name] = node.module
                    elif node.module is None:
                        aliases[name + ".Model"] = alias.name
            if isinstance(node, ast.ClassDef) and node.name == "Model":
                if any(isinstance(f, ast.FunctionDef) and f.name == "shard" for f in node.body):
                    own.add(path.stem)
                bases = {ast.unparse(base) for base in node.bases}
                parents[path.stem] = {aliases[base] for base in bases if base in aliases}
        if "Model" in aliases:
            parents[path.stem] = {aliases["Model"]}
    while True:
        more = {name for name, up in parents.items() if up & own} - own
        if not more:
            return own
        own |= more


def classes_with_pipeline() -> dict[str, list[type]]:
    """Modules whose Model has a `model` with pipeline(), as mlx_lm.utils.sharded_load asks, each
    with the classes that have it."""
    found: dict[str, list[type]] = {}
    for path in models_folder().glob("*.py"):
        text = path.read_text()
        if "pipeline" not in text and not _BORROWED.search(text):
            continue
        module = importlib.import_module(f"mlx_lm.models.{path.stem}")
        model = getattr(module, "Model", None)
        if model is None:
            continue
        homes = [importlib.import_module(base.__module__) for base in model.__mro__[:-1]]
        mine = [home for home in homes if home.__name__.startswith("mlx_lm.models.")]
        inner = [
            value
            for home in mine
            for name, value in vars(home).items()
            if inspect.isclass(value) and hasattr(value, "pipeline") and name != "PipelineMixin"
        ]
        sources = "".join(inspect.getsource(home) for home in mine)
        own = "self.model = " in sources or "def model(self)" in sources
        if inner and own and path.stem not in _OTHERWISE:
            found[path.stem] = inner
    return found


_BORROWED = re.compile("deepseek|glm4_moe|qwen|mistral|ministral|bailing|kimi|minimax|muse")
_OTHERWISE = frozenset({"kimi_vl"})
"""Its Model has no `model`, only the language model within has one."""


def remapped() -> dict[str, str]:
    tree = ast.parse((models_folder().parent / "utils.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING":
            mapping = ast.literal_eval(node.value)
            assert isinstance(mapping, dict)
            return mapping
    raise AssertionError("mlx-lm has no MODEL_REMAPPING any more")


def test_the_list_is_that_of_the_installed_mlx_lm() -> None:
    modules = classes_with_shard()
    names = modules | {alias for alias, name in remapped().items() if name in modules}
    assert names == SHARDABLE


def test_the_list_of_pipelines_is_that_of_the_installed_mlx_lm() -> None:
    modules = set(classes_with_pipeline())
    names = modules | {alias for alias, name in remapped().items() if name in modules}
    assert names == PIPELINABLE


def test_the_pipelines_whose_stages_may_be_unequal_are_those_of_the_installed_mlx_lm() -> None:
    """They take any `split`: the mixin's pipeline(), or one that hands it on."""
    fixed = set()
    for name, classes in classes_with_pipeline().items():
        ways = [each.pipeline for each in classes if each.__name__ != "Model"]  # type: ignore[attr-defined]
        told = [way for way in ways if "split" in inspect.signature(way).parameters]
        own = [way for way in told if way is not PipelineMixin.pipeline]
        if not told or any("split = [" in inspect.getsource(way) for way in own):
            fixed.add(name)
    assert fixed == EQUAL_STAGES
    assert fixed < PIPELINABLE
    assert has_unequal_stages({"model_type": "qwen3_moe"})
    assert not any(has_unequal_stages({"model_type": name}) for name in ("kimi_k3", "llama"))


@pytest.mark.parametrize(
    ("changes", "world", "parallel", "kind"),
    [
        ({}, 1, "auto", "single"),
        ({}, 1, "pipeline", "single"),
        ({}, 2, "auto", "tensor"),
        ({"model_type": "qwen2"}, 2, "auto", "tensor"),
        ({"model_type": "qwen2"}, 3, "auto", "pipeline"),
        ({"model_type": "qwen2"}, 2, "pipeline", "pipeline"),
        ({"model_type": "qwen3_next"}, 2, "auto", "pipeline"),
    ],
)
def test_what_auto_chooses(changes: dict[str, Any], world: int, parallel: str, kind: str) -> None:
    assert check_plan({**LLAMA, **changes}, world, parallel) == kind


def test_a_refusal_gives_the_reason_against_each_way() -> None:
    with pytest.raises(CannotShard) as caught:
        check_plan(LLAMA, 3)
    assert str(caught.value) == (
        "this llama model can't be split over 3 ranks: num_attention_heads is 8, which 3 does "
        "not divide, and mlx-lm has no pipeline of llama; it can be served on 1, 2 or 4 ranks"
    )
    with pytest.raises(CannotShard, match="4 layers, too few for 5 stages.* on 1 to 4 ranks"):
        check_plan({**LLAMA, "model_type": "qwen2"}, 5, "pipeline")
    with pytest.raises(BadConfiguration, match="sideways"):
        check_plan(LLAMA, 2, "sideways")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_llama_that_divides_is_accepted(world: int) -> None:
    check_plan(LLAMA, world, "tensor")


def test_the_message_names_all_that_is_needed() -> None:
    with pytest.raises(CannotShard) as caught:
        check_plan(LLAMA, 3, "tensor")
    assert str(caught.value) == (
        "this llama model can't be split over 3 ranks: num_attention_heads is 8, which 3 does "
        "not divide; it can be served on 1, 2 or 4 ranks"
    )


def test_kv_heads_count() -> None:
    with pytest.raises(CannotShard, match="num_key_value_heads is 4, which 8 does not divide"):
        check_plan(LLAMA, 8, "tensor")


def test_kv_heads_default_to_all_heads() -> None:
    config = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    check_plan(config, 8, "tensor")


def test_inner_width_counts() -> None:
    with pytest.raises(CannotShard, match="intermediate_size is 769"):
        check_plan({**LLAMA, "intermediate_size": 769}, 2, "tensor")


def test_an_architecture_without_shard_is_named() -> None:
    with pytest.raises(CannotShard, match=r"gemma3 .*no tensor-parallel version.*1 rank only"):
        check_plan({**LLAMA, "model_type": "gemma3"}, 2, "tensor")
    check_plan({**LLAMA, "model_type": "gemma3"}, 1, "tensor")


@pytest.mark.parametrize("world", [0, -1])
def test_a_world_below_one_is_refused(world: int) -> None:
    with pytest.raises(CannotShard):
        check_plan(LLAMA, world, "tensor")


def test_sizes_of_a_multimodal_model_are_nested() -> None:
    text = {k: v for k, v in LLAMA.items() if k != "model_type"}
    config = {"model_type": "qwen3_5", "text_config": {**text, "tie_word_embeddings": True}}
    assert possible_worlds(config, 8, "tensor") == [1, 2, 4, 8]  # KV heads are copied
    with pytest.raises(CannotShard, match="num_attention_heads is 8, which 3"):
        check_plan(config, 3, "tensor")


def test_a_mixture_of_experts_has_no_dense_width() -> None:
    check_plan(QWEN3_MOE, 4, "tensor")
    with pytest.raises(CannotShard, match="intermediate_size is 6145"):
        check_plan({**QWEN3_MOE, "mlp_only_layers": [0]}, 4, "tensor")
    with pytest.raises(CannotShard, match="moe_intermediate_size is 770"):
        check_plan({**QWEN3_MOE, "moe_intermediate_size": 770}, 4, "tensor")


def test_latent_attention_needs_no_kv_heads_to_divide() -> None:
    config = {**LLAMA, "model_type": "deepseek_v3", "kv_lora_rank": 32, "num_key_value_heads": 1}
    check_plan(config, 4, "tensor")


@pytest.mark.parametrize(
    ("size", "world", "works"), [(768, 2, True), (768, 4, True), (768, 8, False), (320, 2, False)]
)
def test_quantized_inputs_are_cut_between_groups(size: int, world: int, works: bool) -> None:
    config: dict[str, Any] = {
        **LLAMA, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": size, "quantization": {"group_size": 64, "bits": 4},
    }  # fmt: skip
    if works:
        check_plan(config, world, "tensor")
        return
    with pytest.raises(CannotShard, match=f"intermediate_size is {size}.* group size 64"):
        check_plan(config, world, "tensor")


def test_gpt_oss_in_mxfp4() -> None:
    config = {
        "model_type": "gpt_oss", "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 32,
        "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip
    assert possible_worlds(config, 8) == [1, 2]


def test_one_module_may_be_quantized_apart() -> None:
    special = {"group_size": 32, "model.layers.0.self_attn.o_proj": {"group_size": 128}}
    config = {**LLAMA, "quantization": special}
    check_plan(config, 2, "tensor")
    with pytest.raises(CannotShard, match=r"head size is 256.*holds? 64.*group size 128"):
        check_plan(config, 4, "tensor")
