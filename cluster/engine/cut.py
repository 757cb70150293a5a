"""`python -m cluster.engine.cut`: one rank's weights, cut out of a model for another machine.

Started by the node agent. One line of JSON comes in ("folder", "into", "digest", and "plan" as a
ShardPlan); what goes out is as in `stdio.py`. The folder `into` is a model folder when it exits
with 0 (cluster/model/cut.py), and may be anything else before.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.core.cluster import ShardPlan
from cluster.core.errors import ModelUnavailable, TandemError
from cluster.engine import stdio
from cluster.model.cut import write_cut
from cluster.model.manifest import needed_files
from cluster.model.weights import INDEX, weight_files

if TYPE_CHECKING:
    import mlx.core as mx

FILE_BYTES = 1 << 30
"""Of one file, about: as much is in memory at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Stands in for a group: mlx-lm's shard() and pipeline() only ask these two."""

    plan: ShardPlan

    def rank(self) -> int:
        """As mlx's."""
        return self.plan.rank

    def size(self) -> int:
        """As mlx's."""
        return self.plan.world


def cut(folder: Path, into: Path, digest: str, plan: ShardPlan, events: stdio.Events) -> None:
    """Write the cut of `plan` into the new folder `into`. Raises ModelUnavailable and
    CannotShard, as loading does."""
    import mlx.core as mx

    from cluster.engine.loader import lazy_model, split

    # The accelerator is for the engine that may run beside this.
    mx.set_default_device(mx.cpu)
    model = lazy_model(folder)
    split(model, plan, Place(plan))
    arrays = _arrays(model)
    del model
    try:
        into.mkdir(parents=True)
        weights = {file.name for file in weight_files(folder)}
        for file in needed_files(folder):
            if file.name not in weights and file.name != INDEX:
                shutil.copyfile(file, into / file.name)
        total, done = sum(array.nbytes for array in arrays.values()), 0
        for number, group in enumerate(list(_groups(arrays)), start=1):
            # Taken out of `arrays`, each is gone from memory once it is on disk.
            part = {name: arrays.pop(name) for name in group}
            done += sum(array.nbytes for array in part.values())
            mx.save_safetensors(str(into / f"model-{number:05}.safetensors"), part)
            del part
            events.loading("cutting weights", done / max(1, total))
        write_cut(into, folder, digest, plan)
    except OSError as error:
        raise ModelUnavailable(f"can't write the cut to {into}: {error.strerror}") from error


def _arrays(model: Any) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def _groups(arrays: dict[str, mx.array]) -> Iterator[list[str]]:
    """Names, in order, of about FILE_BYTES each."""
    group: list[str] = []
    size = 0
    for name, array in arrays.items():
        if group and size + array.nbytes > FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += array.nbytes
    yield group


def _orders() -> dict[str, Any]:
    """The one line on stdin, whose end then ends this process."""
    orders: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=stdio.exit_at_end, name="stdin", daemon=True).start()
    return orders


def main() -> None:
    """Cut; does not return."""
    stdio.die_with_parent()
    events = stdio.Events()
    try:
        orders = _orders()
        plan = stdio.plan_of(orders["plan"])
        cut(Path(orders["folder"]), Path(orders["into"]), orders["digest"], plan, events)
    except (TandemError, ValueError, KeyError, TypeError, RuntimeError) as error:
        events.failed(error)
        stdio.exit_now(1)
    stdio.exit_now(0)


if __name__ == "__main__":
    main()
