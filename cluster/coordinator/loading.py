"""How far the engines have loaded, in one line: for `GET /health`, `GET /cluster` and status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.coordinator.epoch import EngineState


def loading_line(engines: Sequence[EngineState], model: str = "the model") -> str:
    """What the engine that is furthest behind does, and how many are ready."""
    waiting = [engine for engine in engines if not engine.endpoint]
    if not waiting:
        return f"loading {model}: all engines are ready"
    last = min(waiting, key=lambda engine: (_stage(engine.loading.what), engine.loading.fraction))
    where = f"rank {last.rank} on {last.member.description.hostname}"
    done = f", {len(engines) - len(waiting)} of {len(engines)} ready" if len(engines) > 1 else ""
    return f"loading {model}: {where}: {last.loading.what} {last.loading.fraction:.0%}{done}"


_STAGES = (
    "waiting for weights", "hashing weights", "cutting weights", "fetching weights", "download",
    "starting", "weights", "warm-up",
)  # fmt: skip
"""In the order in which an engine goes through them."""


def _stage(what: str) -> int:
    return _STAGES.index(what) if what in _STAGES else 0
