from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from api.caller import ANYONE, Caller, set_caller
from api.traceparent import Parent
from api.traces import QUEUED, Trace, Traces, timeline_of
from cluster.core.clock import ManualClock
from tests.conftest import wait_for


class Sent:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.closed = False

    def samples(self, trace_id: str, parent: Parent | None) -> bool:
        return True

    def export(self, trace: Trace) -> None:
        self.traces.append(trace)

    def close(self) -> None:
        self.closed = True


def scope(name: str = "req_1", caller: Caller = ANYONE) -> dict[str, Any]:
    found = {"method": "POST", "path": "/x", "headers": [], "tandem.request_id": name}
    set_caller(found, caller)
    return found


def test_it_is_over_when_the_last_part_has_left() -> None:
    clock = ManualClock(10.0)
    traces, asked, later = Traces(clock, every=2), scope(), ExitStack()
    with traces.following(asked):
        timeline = timeline_of(asked)
        assert timeline is not None
        later.enter_context(traces.held(timeline))
        clock.advance(1.0)
    assert (timeline.ended, len(traces)) == (None, 1)
    clock.advance(1.0)
    later.close()
    assert (timeline.ended, len(traces)) == (12.0, 0)
    found = traces.find("req_1", ANYONE)
    assert found is not None and found.timeline is timeline


def test_nothing_is_there_for_what_is_not_traced() -> None:
    traces, asked = Traces(ManualClock()), scope()
    with traces.following(asked), traces.held(timeline_of(asked)):
        assert timeline_of(asked) is None
        assert len(traces) == 0
    assert traces.find("last", ANYONE) is None


def test_the_last_is_the_callers_own_or_anyones_for_an_operator() -> None:
    clock = ManualClock()
    traces, me, other = Traces(clock, every=4), Caller(owner="me"), Caller(owner="other")
    for name, caller in (("req_1", me), ("req_2", me), ("req_3", other)):
        clock.advance(1.0)
        with traces.following(scope(name, caller)):
            pass
    found = traces.find("last", me)
    assert found is not None and found.timeline.name == "req_2"
    assert traces.find("req_3", me) is None
    chief = Caller(owner="chief", operator=True)
    for shown in ("last", "req_3"):
        found = traces.find(shown, chief)
        assert found is not None and found.timeline.name == "req_3"


async def test_what_waits_for_the_exporter_is_bounded_and_sent_at_the_end() -> None:
    sent = Sent()
    traces = Traces(ManualClock(), exporter=sent)
    for number in range(QUEUED + 3):
        with traces.following(scope(f"req_{number}")):
            pass
    assert len(traces._queue) == QUEUED
    running = asyncio.create_task(traces.run())
    await wait_for(lambda: len(sent.traces) == QUEUED)
    with traces.following(scope("req_late")):
        pass
    running.cancel()
    await asyncio.wait([running])
    assert (sent.traces[-1].timeline.name, sent.closed) == ("req_late", True)
