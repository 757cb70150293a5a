"""The lines that an engine writes to its standard output: one JSON object each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from cluster.core.cluster import Loading, Ready


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine gives up; `error` names a class of cluster/core/errors.py."""

    error: str
    message: str


def parse_event(line: str) -> Loading | Ready | Failed | None:
    """The event of one line; None for anything else, which libraries may print."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    match event:
        case {"event": "loading", "what": str(what), "fraction": fraction}:
            return Loading(what, min(1.0, max(0.0, _number(fraction))))
        case {"event": "ready", "endpoint": str(endpoint), "seconds": seconds}:
            return Ready(endpoint, _number(seconds))
        case {"event": "failed", "error": str(error), "message": str(message)}:
            return Failed(error, " ".join(message.split()))
    return None


def _number(value: Any) -> float:
    """A finite number, else 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) else 0.0
