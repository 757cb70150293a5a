"""The draft model of `tandem serve`: it fits the model that is served, or is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.core.errors import BadConfiguration
from cluster.model.config import read_config
from cluster.model.digest import digest
from cluster.model.folder import resolve
from cluster.model.vocabulary import difference
from cluster.model.weights import tensor_bytes
from cluster.placement.draft import check_draft
from cluster.placement.weights import rank_weight_bytes


@dataclass(frozen=True, slots=True)
class DraftFolder:
    """A draft model on disk."""

    config: Mapping[str, Any]
    digest: str
    weight_bytes: int
    """Of the whole of it."""


def draft_folder(draft: str, model: str, served: Path) -> DraftFolder:
    """Find the draft model `draft` of `model`, whose folder is `served`; fetch it if need be.

    Raises ModelUnavailable, and BadConfiguration when it can't draft for that model.
    """
    folder = resolve(draft)
    if differs := difference(served, folder):
        raise BadConfiguration(
            f"{draft} can't draft for {model}: their vocabularies differ ({differs}), and drafts "
            "are token ids; choose a smaller model of the same family with --draft-model"
        )
    config = read_config(folder)
    check_draft(read_config(served), config)
    weights = rank_weight_bytes(config, tensor_bytes(folder), 1, "single")
    return DraftFolder(config, digest(folder), weights)
