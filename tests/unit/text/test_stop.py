from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.text.stop import StopStrings

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The plain way: the first stop string to be complete, of those the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def run(parts: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    matcher = StopStrings(stops)
    out = []
    for part in parts:
        out.append(matcher.feed(part))
        if matcher.found is not None:
            return out, matcher.found
    out.append(matcher.finish())
    return out, None


@given(text=LETTERS, stops=STOPS, cuts=st.lists(st.integers(0, 30), max_size=8))
@settings(max_examples=500)
def test_any_pieces_give_the_same(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    out, found = run(parts, stops)
    assert ("".join(out), found) == expected(text, stops)


@given(text=LETTERS, stops=STOPS)
def test_no_more_is_held_back_than_must_be(text: str, stops: list[str]) -> None:
    if expected(text, stops)[1] is not None:
        return
    out = StopStrings(stops).feed(text)
    held = text[len(out) :]
    longest = max(
        (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0
    )
    assert len(held) == longest


@pytest.mark.parametrize(
    ("parts", "stops", "text", "found"),
    [
        (["a", "b", "c"], ["abc"], "", "abc"),
        (["xab", "abc"], ["abc"], "xab", "abc"),
        (["aab"], ["ab", "b"], "a", "ab"),
        (["abcd"], ["abcd", "bc"], "a", "bc"),
        (["日", "本", "語"], ["本語"], "日", "本語"),
        (["one\n", "\ntwo"], ["\n\n"], "one", "\n\n"),
        (["abab", "ac"], ["ababac"], "", "ababac"),
        (["nothing"], ["!"], "nothing", None),
        ([], ["a"], "", None),
    ],
)
def test_cases(parts: list[str], stops: list[str], text: str, found: str | None) -> None:
    out, stop = run(parts, stops)
    assert ("".join(out), stop) == (text, found)


def test_a_beginning_that_comes_to_nothing_is_let_go() -> None:
    matcher = StopStrings(["END"])
    assert matcher.feed("the E") == "the "
    assert matcher.feed("N") == ""
    assert matcher.feed("T") == "ENT"
    assert matcher.feed("E") == ""
    assert matcher.finish() == "E"
    assert matcher.finish() == ""


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])
    matcher = StopStrings(["a"])
    matcher.feed("a")
    with pytest.raises(ValueError, match="after the stop"):
        matcher.feed("b")
