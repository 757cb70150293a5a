"""Spans as Chrome's trace events in JSON, which Perfetto opens (ui.perfetto.dev). Pure.

The format is "Trace Event Format": complete events ("X") with `ts` and `dur` in microseconds, and
metadata ("M") that names processes and threads. A process is the coordinator or a rank, a thread
is a track of it; spans of one track that overlap are spread over several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from api.convert.spans import Span, breakdown, lanes, spans
from cluster.core.timeline import Timeline

_TRACKS = (
    "request", "http", "queue", "phase", "steps", "chunks", "decode", "wait", "network", "apply",
    "parser", "sse",
)  # fmt: skip
"""From top to bottom."""


def chrome_trace(timeline: Timeline, trace_id: str) -> dict[str, Any]:
    """The whole file. May be called in any thread."""
    told = spans(timeline)
    whole = told[0].end
    parts = breakdown(told)
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "requests": list(timeline.requests),
            "request_id": timeline.name,
            "trace_id": trace_id,
            "started": datetime.fromtimestamp(timeline.wall, UTC).isoformat(),
            "running": timeline.ended is None,
            "seconds": round(whole, 6),
            "went_to": {kind: round(took, 6) for kind, took in parts.items() if took > 0},
            "explained": round(1 - parts["unexplained"] / whole, 4) if whole else 1.0,
            "left_out": timeline.left_out,
        },
        "traceEvents": _events(told),
    }


def _events(told: Sequence[Span]) -> list[dict[str, Any]]:
    placed = lanes(told)
    processes = list(dict.fromkeys(span.process for span in told))
    processes = [processes[0], *sorted(processes[1:])]
    named: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for pid, process in enumerate(processes, start=1):
        named.append(_meta("process_name", pid, 0, name=process))
        named.append(_meta("process_sort_index", pid, 0, sort_index=pid))
        tracks = sorted((track for of, track in placed if of == process), key=_TRACKS.index)
        threads = [(track, lane) for track in tracks for lane in placed[process, track]]
        for tid, (track, lane) in enumerate(threads, start=1):
            named.append(_meta("thread_name", pid, tid, name=track))
            named.append(_meta("thread_sort_index", pid, tid, sort_index=tid))
            events += [_complete(span, pid, tid) for span in lane]
    return named + events


def _meta(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _complete(span: Span, pid: int, tid: int) -> dict[str, Any]:
    start = round(span.start * 1e6, 3)
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.track,
        "pid": pid,
        "tid": tid,
        "ts": start,
        # From rounded ends, so that what touches does not overlap.
        "dur": round(max(0.0, round(span.end * 1e6, 3) - start), 3),
        "args": {name: list(v) if isinstance(v, tuple) else v for name, v in span.details.items()},
    }
