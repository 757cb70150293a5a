"""From a model folder to an evaluated shard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from cluster.core.cluster import ShardPlan
from cluster.core.errors import CannotShard, ModelUnavailable
from cluster.engine.caches import CacheKind, inspect
from cluster.engine.group import Group
from cluster.engine.stage import pipeline
from cluster.model.cut import Cut, read_cut, write_skeleton
from cluster.model.weights import weight_files

if TYPE_CHECKING:
    from cluster.engine.cut import Place

Progress = Callable[[float], None]
"""Told the fraction of the weights that is in memory, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose weights are in memory: the whole of it, or this rank's shard or stage."""

    model: Any
    """`model(tokens int [rows, T], cache=caches) -> logits [rows, T, vocab]`."""
    module: Any
    """Of mlx.nn, with this rank's weights."""
    caches: CacheKind
    weight_bytes: int
    """Of this rank."""

    def new_caches(self) -> list[Any]:
        """Empty caches for one sequence, one for each of this rank's layers."""
        return self.caches.new()

    @property
    def trimmable(self) -> bool:
        """Every layer's cache can be cut at any position."""
        return self.caches.trimmable


def load(
    folder: Path, plan: ShardPlan, group: Group | None, progress: Progress, kv_bits: int = 0
) -> LoadedModel:
    """Read `folder`, keep this rank's part by `plan`, and evaluate it layer by layer.

    A folder that was cut for this rank (cluster/model/cut.py) is taken as it is. No code from the
    folder is run, and no weight of another rank is read. Raises
    ModelUnavailable when the files can't be read or mlx-lm does not know the architecture,
    CannotShard when it can't be split over the group after all (`placement.shard` should have
    said so before the group was formed), and BadConfiguration when the caches can't have
    `kv_bits` bits.
    """
    model, forward = open_model(folder, plan, group)
    kind = inspect(model, kv_bits)
    return LoadedModel(forward, model, kind, _evaluate(model, progress))


def open_model(folder: Path, plan: ShardPlan, group: Group | Place | None) -> tuple[Any, Any]:
    """This rank's part of the model in `folder`, not read yet, and what is to be called. Raises
    as `load` does."""
    try:
        cut = read_cut(folder)
        if cut is not None:
            return _from_cut(folder, cut, plan, group)
    except OSError as error:
        raise ModelUnavailable(f"can't load the model in {folder}: {error}") from error
    model = lazy_model(folder)
    return model, split(model, plan, group)


def lazy_model(folder: Path) -> Any:
    """The model in `folder`, none of whose weights is read yet. Raises ModelUnavailable."""
    try:
        model, _ = load_model(folder, lazy=True)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise ModelUnavailable(f"can't load the model in {folder}: {error}") from error
    model.eval()
    return model


def split(model: Any, plan: ShardPlan, group: Group | Place | None) -> Any:
    """Keep only this rank's part of `model`; what is to be called in its place. Raises
    CannotShard."""
    if group is None:
        return model
    if plan.kind == "pipeline":
        return pipeline(model, group, plan.layers)
    _shard(model, group)
    return model


def _from_cut(
    folder: Path, cut: Cut, plan: ShardPlan, group: Group | Place | None
) -> tuple[Any, Any]:
    """As `lazy_model` and `split` give them, of weights that were split before they came here.

    The model is built and split on files that have the whole model's headers and no data; then
    every array is replaced by what is in `folder`.
    """
    weights = {file.name for file in weight_files(folder)}
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        skeleton = Path(name)
        for path in folder.iterdir():
            if path.name not in weights:
                (skeleton / path.name).symlink_to(path.absolute())
        write_skeleton(skeleton, cut)
        model = lazy_model(skeleton)
        forward = split(model, plan, group)
        arrays: dict[str, mx.array] = {}
        for file in sorted(weights):
            arrays.update(mx.load(str(folder / file)))  # type: ignore[arg-type]
        try:
            model.load_weights(list(arrays.items()), strict=True)
        except ValueError as error:
            raise ModelUnavailable(f"{folder} is not what rank {plan.rank} needs: {error}") from (
                error
            )
    flat: Any = tree_flatten(model.parameters())
    if left := [name for name, array in flat if array is not arrays.get(name)]:
        raise ModelUnavailable(f"{folder} has no weights for {left[0]}: delete it")
    return model, forward


def _shard(model: Any, group: Group | Place) -> None:
    if not hasattr(model, "shard"):
        raise CannotShard(f"mlx-lm has no shard() for {type(model).__module__}")
    try:
        model.shard(group)
    except (AssertionError, ValueError) as error:
        raise CannotShard(f"can't split it over {group.size()} ranks: {error}") from error


def _evaluate(model: Any, progress: Progress) -> int:
    """Bring all weights into memory, layer by layer so that the peak stays low; bytes."""
    total = sum(array.nbytes for array in _arrays(model))
    done = 0
    progress(0.0)
    for layer in getattr(model, "layers", None) or ():
        if not hasattr(layer, "parameters"):
            continue
        arrays = _arrays(layer)
        mx.eval(arrays)
        done += sum(array.nbytes for array in arrays)
        progress(min(1.0, done / max(1, total)))
    mx.eval(model.parameters())
    progress(1.0)
    return total


def _arrays(module: Any) -> list[mx.array]:
    flat: Any = tree_flatten(module.parameters())
    return [array for _, array in flat]
