"""The bookkeeping of the other tests here, without a cluster."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.chaos.client import Question, Record
from tests.chaos.fault import MATRIX, Fault, Kind, Phase, Place, covering, matrix
from tests.chaos.ledger import Books, Reference, Verdict, judge
from tests.chaos.schedule import Outside, arrivals, questions, troubles

ASKED = Question("hello", 4, told=True)
REFERENCE = Reference("abcd", ("a", "b", "c", "d"))


def record(text: str, count: int | None = None) -> Record:
    """A whole answer of one-letter tokens."""
    return Record(
        text=text, tokens=list(text), count=count or len(text), finish="length", over=True
    )


def test_a_fault_is_read_as_it_was_written() -> None:
    for fault in matrix():
        assert Fault.read(fault.write()) == fault
    for line in ("", "[]", "{}", '{"kind": "flood"}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Fault.read(line)


def test_the_matrix_has_every_case_and_the_few_cover_it() -> None:
    faults = matrix()
    assert len(faults) == len(MATRIX) * 2 * len(Place) * len(Phase) == 60
    assert len({replace(fault, count=1) for fault in faults}) == 60
    for seed in range(20):
        few = covering(faults, seed)
        assert len(few) <= 7
        assert {fault.kind for fault in few} == set(MATRIX)
        assert {(fault.rank, None) for fault in few} == {(0, None), (1, None)}
        assert {fault.place for fault in few} == set(Place)
        assert {fault.phase for fault in few} == set(Phase)
    assert covering(faults, 1) == covering(faults, 1) != covering(faults, 2)


def test_schedules_are_drawn_from_their_seed() -> None:
    asked = questions(1)
    assert len(set(asked)) == len(asked) == 24
    clients = arrivals(1, 600.0, 1.0, asked)
    assert clients == arrivals(1, 600.0, 1.0, asked) != arrivals(2, 600.0, 1.0, asked)
    assert 500 < len(clients) < 700 and clients[-1].at < 600.0
    assert 0.05 < sum(c.leave_after is not None for c in clients) / len(clients) < 0.15
    faults = troubles(1, 600.0, 30.0)
    assert [fault.at for fault in faults] == [30.0 * n for n in range(1, 20)]
    kinds = {f.what if isinstance(f.what, Outside) else f.what.kind for f in faults[:8]}
    assert kinds == {*Kind, *Outside}


def test_what_came_is_held_against_the_reference() -> None:
    assert judge(record("abcd"), ASKED, REFERENCE) == Verdict("completed")
    assert judge(record("abd"), ASKED, REFERENCE) == Verdict("completed", lost=1, wrong=True)
    assert judge(record("abbcd"), ASKED, REFERENCE) == Verdict("completed", twice=1, wrong=True)
    assert judge(record("abxd"), ASKED, REFERENCE).wrong
    unnamed = replace(ASKED, told=False)
    assert judge(record("abcd", 3), unnamed, REFERENCE).lost == 1
    assert judge(record("abcd", 5), unnamed, REFERENCE).twice == 1


def test_ends_are_told_apart() -> None:
    part = Record(text="ab", tokens=["a", "b"])
    assert judge(part, ASKED, REFERENCE).end == "lost"
    part.hung_up = True
    assert judge(part, ASKED, REFERENCE) == Verdict("hung up")
    part.text = "ax"
    assert judge(part, ASKED, REFERENCE).wrong
    part.error = "503"
    assert judge(part, ASKED, REFERENCE).end == "503"


def test_each_line_can_be_unmet() -> None:
    good = [Verdict("completed")] * 99
    assert Books([*good, Verdict("503")], size=(100.0, 105.0)).unmet() == []
    for verdict in (Verdict("lost"), Verdict("completed", lost=1), Verdict("completed", twice=1)):
        assert len(Books([*good, verdict]).unmet()) == 1
    assert Books([*good, Verdict("completed", wrong=True)]).unmet() == ["wrong text: 1"]
    assert Books([*good, *[Verdict("503")] * 2]).unmet() == ["errors: 2"]
    assert Books(good, size=(100.0, 120.0)).unmet() == ["memory: True"]
    assert Books(good, tasks=(5, 8)).unmet() == ["tasks: True"]
    assert Books(good, left={"slots": 1}).unmet() == ["slots: 1"]
    assert "| requests sent | 99 |" in Books(good).table()


def test_a_stream_is_read_as_it_comes() -> None:
    stream = Record()
    delta = {
        "delta": {"content": "a"},
        "finish_reason": None,
        "logprobs": {"content": [{"token": "a"}]},
    }
    stream.read(": decode 12")
    stream.read("data: " + json.dumps({"choices": [delta]}))
    stream.read('data: {"choices": [], "usage": {"completion_tokens": 1}}')
    stream.read('data: {"choices": [{"delta": {}, "finish_reason": "length"}]}')
    assert not stream.over
    stream.read("data: [DONE]")
    assert (stream.text, stream.tokens, stream.count, stream.finish) == ("a", ["a"], 1, "length")
    assert stream.over and len(stream.arrivals) == 1
    stream.read('data: {"error": {"code": "epoch_ended"}}')
    assert stream.error == "epoch_ended"


def test_a_pause_is_the_longest_silence_around_the_fault() -> None:
    stream = Record(sent=0.0, arrivals=[1.0, 2.0, 2.1, 5.0, 5.1, 9.0])
    assert stream.pause(2.05) == pytest.approx(2.95)  # what was under way came at 2.1
    assert stream.pause(5.2) == pytest.approx(3.8)
    assert stream.pause(10.0) == 0.0
