"""Lines of a pipe, and the events in them."""

from __future__ import annotations

import pytest

from cluster.core.cluster import Loading, Ready
from cluster.node.engine_events import Failed, parse_event
from cluster.node.lines import Lines


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_do_not_depend_on_how_they_come(size: int) -> None:
    data = "one\r\n\nzwölf\nrest".encode()
    lines = Lines()
    found = [line for at in range(0, len(data), size) for line in lines.push(data[at : at + size])]
    assert found + lines.finish() == ["one", "", "zwölf", "rest"]
    assert lines.finish() == []


def test_a_long_line_is_cut_and_the_next_is_whole() -> None:
    lines = Lines(longest=4)
    assert lines.push(b"abcdef") == []
    assert lines.push(b"ghi") == []
    assert lines.push(b"jkl\nmn\nopqrstu\n") == ["abcd", "mn", "opqr"]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"event": "loading", "what": "weights", "fraction": 0.5}', Loading("weights", 0.5)),
        ('{"event": "loading", "what": "weights", "fraction": 7}', Loading("weights", 1.0)),
        ('{"event": "loading", "what": "weights", "fraction": NaN}', Loading("weights", 0.0)),
        ('{"event": "ready", "endpoint": "a:1", "seconds": 2}', Ready("a:1", 2.0)),
        ('{"event": "failed", "error": "E", "message": "a\\nb"}', Failed("E", "a b")),
        ('{"event": "later", "what": 1}', None),
        ('{"event": "ready"}', None),
        ("[]", None), ("", None), ("loading...", None), ("[" * 100_000, None), ("1e999", None),
    ],
)  # fmt: skip
def test_events(line: str, event: object) -> None:
    assert parse_event(line) == event
