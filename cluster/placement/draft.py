"""Can one model draft for another, and what does it take? Decided from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.core.config import DRAFT_ROWS, DRAFT_WINDOW
from cluster.core.errors import BadConfiguration
from cluster.placement.layers import Layer, layers
from cluster.placement.memory import Load, predict
from cluster.placement.shape import model_type


def check_draft(config: Mapping[str, Any], draft: Mapping[str, Any]) -> None:
    """Raise BadConfiguration when nothing can be drafted for the model of `config`, or not by the
    one of `draft`: what was wrong in a draft must be cut from both caches.

    Says what is known from a config; engines look at the caches themselves.
    """
    for one, what, advice in (
        (config, "the model", "leave --draft-model out"),
        (draft, "the draft model", "choose another --draft-model"),
    ):
        if set(layers(one)) - {Layer.FULL}:
            raise BadConfiguration(
                f"{what} is a {model_type(one)} model, whose cache (windows, states) can't be cut "
                f"behind a wrong draft: {advice}"
            )


def draft_bytes(draft: Mapping[str, Any], weight_bytes: int, *, fused: bool) -> int:
    """What rank 0 takes for a draft model at most: the whole of it, and caches for as many
    sequences as draft together. `fused` as in Load."""
    longest = 2 * DRAFT_WINDOW
    load = Load(DRAFT_ROWS * longest, DRAFT_ROWS, longest, DRAFT_WINDOW, fused)
    return predict(draft, 1, "single", 0, load, weight_bytes).total
