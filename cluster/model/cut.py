"""A folder with the weights of one rank alone, cut from a model where all of it was.

Beside the weights, config and tokenizer it holds `cut.json`: which model and which rank it
belongs to, and the headers of the whole model's weight files. With these the model can be built
and sharded as if they were there (engine/loader.py), before the cut weights take their place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.core.cluster import ShardPlan
from cluster.core.errors import ModelUnavailable
from cluster.model.digest import digest
from cluster.model.weights import read_header, weight_files

FILE = "cut.json"


@dataclass(frozen=True, slots=True)
class Cut:
    """What a cut says of itself."""

    model_digest: str
    """Of the whole model."""
    world: int
    rank: int
    kind: str
    own_digest: str
    """Of the folder with the cut, as `cluster.model.digest` computes it."""
    headers: dict[str, dict[str, Any]]
    """The safetensors header of each weight file of the whole model, by name."""
    layers: tuple[int, ...] = ()
    """As in ShardPlan."""

    def fits(self, model_digest: str, plan: ShardPlan) -> bool:
        """True when it is this rank's part of this model."""
        part = (self.model_digest, self.world, self.rank, self.kind, tuple(self.layers))
        return part == (model_digest, plan.world, plan.rank, plan.kind, plan.layers)


def write_cut(folder: Path, whole: Path, model_digest: str, plan: ShardPlan) -> None:
    """Make `folder`, which holds all other files, the cut of `plan` of the model in `whole`."""
    headers = {file.name: read_header(file)[1] for file in weight_files(whole)}
    cut = Cut(model_digest, plan.world, plan.rank, plan.kind, digest(folder), headers, plan.layers)
    (folder / FILE).write_text(json.dumps(asdict(cut)))


def read_cut(folder: Path) -> Cut | None:
    """What `folder` is a cut of; None for a whole model. Raises ModelUnavailable when its
    cut.json is broken, or its files are not those that belong to it."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        cut = Cut(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelUnavailable(f"{path} is broken: {error}") from error
    if digest(folder) != cut.own_digest:
        raise ModelUnavailable(f"the files in {folder} are not those that were cut: delete it")
    return cut


def model_digest(folder: Path, plan: ShardPlan) -> str:
    """The digest of the model in `folder`; of a cut, that of the model it was cut from. Raises
    ModelUnavailable, also for a cut that is not that of `plan`."""
    cut = read_cut(folder)
    if cut is None:
        return digest(folder)
    if not cut.fits(cut.model_digest, plan):
        raise ModelUnavailable(
            f"{folder} holds the {cut.kind} part of rank {cut.rank} of {cut.world}, not that of "
            f"rank {plan.rank} of {plan.world} ({plan.kind}; layers by rank: "
            f"{list(cut.layers) or 'equal'} there, {list(plan.layers) or 'equal'} wanted)"
        )
    return cut.model_digest


def write_skeleton(folder: Path, cut: Cut) -> None:
    """Put weight files with the whole model's headers into `folder`. Their data is a hole, so
    they take no room; nobody may read it."""
    for name, header in cut.headers.items():
        raw = json.dumps(header).encode()
        ends = (tensor["data_offsets"][1] for key, tensor in header.items() if key[:2] != "__")
        with (folder / Path(name).name).open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + max(ends, default=0))
