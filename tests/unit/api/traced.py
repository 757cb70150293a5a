"""A trace made by hand, and what must hold of every trace file."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

from cluster.core.clock import ManualClock
from cluster.core.ids import Epoch, RequestId, Seq
from cluster.core.plan import StepTimes
from cluster.core.rank_clock import Offset
from cluster.core.timeline import RankTimes, StepRecord, Timeline, Track

OWN = RequestId("chatcmpl-own")
OTHER = RequestId("chatcmpl-other")


def a_timeline() -> Timeline:
    """From 100 to 110 s: 1 s of preparing, 1 s in the queue, 3 s of others' work, a chunk of 2 s
    on two ranks whose clocks are 1000 s ahead and 7 s behind, an iteration of 2 s."""
    clock = ManualClock(100.0)
    timeline = Timeline(clock, "laptop", "req_1", wall=1_700_000_000.0)
    timeline.requests.append(OWN)
    timeline.span(Track.HTTP, "prepare", 100.0, 101.0)
    timeline.span(Track.QUEUE, "queued", 101.0, 102.0, answer=OWN)
    timeline.span(Track.PHASE, "prefill", 102.0, 107.5)
    timeline.steps.add(a_step(1, 102.0, 105.0, {OTHER: 3}, ()))
    timeline.steps.add(a_step(2, 105.0, 107.0, {}, ((OTHER, 0, 9), (OWN, 0, 5))))
    timeline.steps.add(a_step(3, 107.0, 109.0, {OTHER: 1, OWN: 2}, ()))
    timeline.span(Track.SSE, "write", 109.25, 109.5, characters=7)
    clock.advance(10.0)
    timeline.ended = clock.now()
    return timeline


def a_step(
    seq: int,
    start: float,
    end: float,
    rows: dict[RequestId, int],
    chunks: tuple[tuple[RequestId, int, int], ...],
) -> StepRecord:
    """On its way for 10 ms, done alike on both ranks, and back for 20 ms."""

    def rank(ahead: float) -> RankTimes:
        begun, done = start + 0.01 + ahead, end - 0.02 + ahead
        times = StepTimes(
            received=begun,
            answered=done,
            decode=(begun, done) if rows else None,
            chunks=((begun, done),) * len(chunks),
            arrived=end,
        )
        return RankTimes(times, Offset(ahead, 0.015))

    ranks = (rank(1000.0), rank(-7.0))
    return StepRecord(
        Epoch(1), Seq(seq), start, end, end + 0.001, rows, chunks, ranks, ("studio-1", "studio-2")
    )


def check_file(body: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Its complete events by process and track. Fails where the format, or we, would not have it
    so: unnamed threads, times that go back, what overlaps on one thread."""
    json.dumps(body, allow_nan=False)
    names: dict[tuple[str, int, int], str] = {}
    threads = defaultdict(list)
    for event in body["traceEvents"]:
        where = (event["pid"], event["tid"])
        if event["ph"] == "M":
            if event["name"].endswith("_name"):
                names[event["name"], *where] = event["args"]["name"]
            continue
        assert event["ph"] == "X" and event["name"] and event["cat"], event
        assert event["ts"] >= 0 and event["dur"] >= 0, event
        threads[where].append(event)
    found = defaultdict(list)
    for (pid, tid), events in threads.items():
        for before, after in pairwise(events):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.0005, (before, after)
        track = names["thread_name", pid, tid]
        assert {event["cat"] for event in events} == {track}
        found[names["process_name", pid, 0], track] += events
    return found
