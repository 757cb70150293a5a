"""What a reader of the figures should know before believing them. Pure."""

from __future__ import annotations

from cluster.bench.figures import Summary
from cluster.bench.result import Level

BUSY = 0.7
"""Share of a core from which on this program may be what is slow."""
LAGGING = 0.02
"""Seconds by which its loop may be late."""
LATE = 0.05
"""Seconds by which requests of an open loop may be sent too late."""
FEW = 20
"""Requests below which a high percentile is the slowest one."""


def warnings(level: Level, summary: Summary) -> list[str]:
    """Of one level, each a sentence."""
    found = []
    client, at = level.client, f"at {level.load}"
    if client.cpu > BUSY:
        found.append(
            f"{at} this program used {client.cpu:.0%} of a core: it may have been slower than the "
            "server; use several at once, or a faster machine"
        )
    elif client.lag > LAGGING:
        found.append(
            f"{at} this program came up to {1000 * client.lag:.0f} ms late to look: another "
            "process, or the server beside it, takes its processor; times are that uncertain"
        )
    if level.load.kind == "open" and summary.late > LATE:
        found.append(
            f"{at} requests were sent up to {1000 * summary.late:.0f} ms after they were due: "
            "believe the latencies that count from then (planned)"
        )
    if summary.failed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in summary.errors.items())
        first = next(r.detail for r in level.requests if r.status == "failed")
        found.append(f"{at} {summary.failed} of {summary.requests} failed ({kinds}): {first}")
    if 0 < summary.ok < FEW:
        found.append(f"{at} only {summary.ok} answers: its percentiles mean little")
    whole = [request for request in level.requests if request.status == "ok"]
    short = sum(request.output_tokens < 0.9 * request.asked_output for request in whole)
    if short > 0.1 * len(whole):
        found.append(f"{at} {short} of {len(whole)} answers were shorter than asked")
    return found
