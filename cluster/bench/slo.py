"""What a person writes for an SLO. Pure."""

from __future__ import annotations

import re

from cluster.bench.result import Slo
from cluster.core.errors import BadConfiguration

UNITS = {"ms": 1e-3, "s": 1.0}


def parse_slo(text: str) -> Slo:
    """`ttft=500ms,itl=50ms,e2e=10s`, each once at most; raises BadConfiguration."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(ttft|itl|e2e)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s)\s*", part)
        if not found or found[1] in limits or not float(found[2]):
            raise BadConfiguration(
                f"--slo {text}: {part or 'nothing'} is no limit; it looks like "
                "ttft=500ms,itl=50ms,e2e=10s, each of them once at most"
            )
        limits[found[1]] = float(found[2]) * UNITS[found[3]]
    return Slo(**limits)


def words(slo: Slo) -> str:
    """The same for a person to read."""
    limits = {"TTFT": slo.ttft, "ITL": slo.itl, "E2E": slo.e2e}
    return ", ".join(
        f"{name} up to {1000 * limit:g} ms" for name, limit in limits.items() if limit is not None
    )
