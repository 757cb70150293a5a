from __future__ import annotations

import random
from dataclasses import replace

import pytest

from api.convert.chrome_trace import chrome_trace
from api.convert.spans import Kind, Span, breakdown, lanes, spans
from cluster.core.plan import StepTimes
from cluster.core.rank_clock import Offset
from cluster.core.timeline import RankTimes
from tests.unit.api.traced import OTHER, a_step, a_timeline, check_file


def test_every_process_is_told_on_one_clock() -> None:
    told = spans(a_timeline())
    where = {(span.process, span.track) for span in told}
    for rank in ("rank 0 studio-1", "rank 1 studio-2"):
        assert {(rank, track) for track in ("network", "wait", "steps", "chunks", "decode")} < where
        (chunk,) = (s for s in told if (s.process, s.track) == (rank, "chunks"))
        assert (chunk.name, round(chunk.start, 9), round(chunk.end, 9)) == ("chunk 0-5", 5.01, 6.98)
        (decode,) = (s for s in told if (s.process, s.track) == (rank, "decode"))
        assert (decode.details["tokens"], decode.details["rows"]) == (2, 2)
    assert told[0].parent is None
    for span in told[1:]:
        assert span.parent is not None
        parent = told[span.parent]
        assert parent.start <= span.start <= span.end <= parent.end


def test_nothing_is_told_of_others_but_that_they_were_there() -> None:
    timeline = a_timeline()
    assert OTHER not in repr(spans(timeline))
    first = next(span for span in spans(timeline) if span.name == "step 1")
    assert (first.details["rows"], first.details["tokens"]) == (1, 0)


def test_what_was_under_way_when_it_came_is_told_from_then_on() -> None:
    timeline = a_timeline()
    timeline.steps.add(a_step(0, 98.0, 100.5, {OTHER: 1}, ((OTHER, 0, 4),)))
    told = spans(timeline)
    assert all(0 <= span.start <= span.end for span in told)
    (step,) = (at for at, span in enumerate(told) if span.name == "step 0" and span.parent == 0)
    parts = [span for span in told if span.parent == step]
    assert {(span.track, span.process[:6]) for span in parts} >= {("steps", "rank 0")}
    assert not any("to the rank" in span.name for span in parts)  # that was before
    check_file(chrome_trace(timeline, "ab" * 16))


def test_a_clock_that_is_off_makes_no_negative_times() -> None:
    timeline = a_timeline()
    late = StepTimes(received=40.0, answered=50.0, chunks=((41.0, 49.0),), arrived=109.0)
    step = a_step(4, 108.0, 109.0, {}, ((OTHER, 0, 1),))
    timeline.steps.add(replace(step, ranks=(RankTimes(late, Offset(-60.0, 5.0)),)))
    assert all(0 <= span.start <= span.end for span in spans(timeline))


def test_the_parts_add_up_to_the_whole() -> None:
    parts = breakdown(spans(a_timeline()))
    assert sum(parts.values()) == pytest.approx(10.0)
    assert parts[Kind.PREPARE] == pytest.approx(1.0)
    assert parts[Kind.QUEUE] == pytest.approx(1.0)
    assert parts[Kind.OTHERS] == pytest.approx(2.97)
    assert parts[Kind.COMPUTE] == pytest.approx(2 * 1.97)
    assert parts[Kind.NETWORK] == pytest.approx(3 * 0.03)
    assert parts[Kind.SSE] == pytest.approx(0.25)
    assert parts["unexplained"] == pytest.approx(0.75 - 0.001)


@pytest.mark.parametrize("seed", range(10))
def test_a_breakdown_is_what_sampling_finds(seed: int) -> None:
    chance = random.Random(seed)
    kinds = [Kind.COMPUTE, Kind.QUEUE, Kind.NETWORK, Kind.WHOLE]
    told = [Span("coordinator", "request", "request", 0.0, 100.0, Kind.WHOLE, {}, None)]
    for _ in range(chance.randint(0, 30)):
        start = chance.randint(-5, 100)
        end = start + chance.randint(0, 9)
        told.append(Span("x", "y", "z", float(start), float(end), chance.choice(kinds)))
    parts = breakdown(told)
    sampled = dict.fromkeys(parts, 0)
    for second in range(100):
        at = {s.kind for s in told if s.start <= second and second + 1 <= s.end} - {Kind.WHOLE}
        sampled[next((k.value for k in kinds if k in at), "unexplained")] += 1
    assert parts == pytest.approx(sampled)


def test_what_overlaps_gets_a_lane_of_its_own() -> None:
    times = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (3.5, 5.0)]
    told = [Span("p", "t", "s", start, end, Kind.WHOLE) for start, end in times]
    placed = lanes(reversed(told))["p", "t"]
    assert [[span.start for span in lane] for lane in placed] == [[0.0, 2.0], [1.0, 3.5]]


def test_the_file_is_as_perfetto_wants_it() -> None:
    timeline = a_timeline()
    body = chrome_trace(timeline, "ab" * 16)
    tracks = check_file(body)
    assert {process for process, _ in tracks} == {
        "coordinator",
        "rank 0 studio-1",
        "rank 1 studio-2",
    }
    (chunk,) = tracks["rank 1 studio-2", "chunks"]
    assert (chunk["ts"], chunk["dur"]) == (pytest.approx(5_010_000), pytest.approx(1_970_000))
    other = body["otherData"]
    assert other["explained"] == pytest.approx(0.9251)
    assert sum(other["went_to"].values()) == pytest.approx(other["seconds"])


def test_a_request_that_runs_is_told_so_far() -> None:
    timeline = a_timeline()
    timeline.ended = None
    body = chrome_trace(timeline, "ab" * 16)
    check_file(body)
    assert body["otherData"]["running"]


def test_epochs_are_told_apart() -> None:
    timeline = a_timeline()
    timeline.steps.add(replace(a_step(1, 109.0, 109.5, {}, ((OTHER, 0, 1),)), epoch=2))
    processes = {span.process for span in spans(timeline)}
    assert {"rank 0 studio-1 (epoch 1)", "rank 0 studio-1 (epoch 2)"} < processes


def test_a_lost_step_explains_the_time_until_its_epoch_ended() -> None:
    timeline = a_timeline()
    lost = replace(a_step(4, 109.5, 109.9, {}, ()), ranks=(), done=109.9, lost=True)
    timeline.steps.add(lost)
    parts = breakdown(spans(timeline))
    assert parts[Kind.LOST] == pytest.approx(0.4)
