from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import cluster.demo
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import CORPUS


def run(tokenizer: Tokenizer, ids: tuple[int, ...], stop: tuple[str, ...]) -> tuple[str, bool]:
    stream = TextStream(tokenizer, stop)
    text = ""
    for token in ids:
        text += stream.push(token)
        if stream.stopped:
            return text, True
    return text + stream.finish(), stream.stopped


@given(text=st.sampled_from(CORPUS), data=st.data())
def test_a_stop_string_cut_out_of_the_text_never_leaks(
    tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, min(start + 12, len(text))))
    stop = text[start:end]
    assert run(tokenizer, tokenizer.encode(text), (stop,)) == (text[: text.index(stop)], True)


@given(text=st.sampled_from(CORPUS))
def test_without_stop_strings(tokenizer: Tokenizer, text: str) -> None:
    assert run(tokenizer, tokenizer.encode(text), ()) == (text, False)


def test_text_that_looks_like_a_stop_string_comes_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ("dogs",))
    shown = "".join(stream.push(token) for token in tokenizer.encode("a dog"))
    assert shown == "a "
    assert stream.finish() == "dog"
    assert not stream.stopped


def test_a_stop_string_that_is_complete_only_at_the_end(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode("日")[0]
    half = first if tokenizer.decode([first]) == "\ufffd" else None
    stream = TextStream(tokenizer, ("\ufffd",))
    if half is not None:
        assert stream.push(half) == ""
        assert stream.finish() == ""
        assert stream.stopped


DEMO = Tokenizer.load(cluster.demo.folder())


def shown(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(DEMO, stop, markers=True)
    parts = []
    for token in DEMO.encode(text):
        parts.append(stream.push(token))
        if stream.stopped:
            return parts, stream
    return [*parts, stream.finish()], stream


def test_which_stop_string_was_found() -> None:
    assert shown("a b c", ("zz", "c", "b"))[1].found == "b"
    assert shown("a b c", ("zz",))[1].found is None
    assert TextStream(DEMO).found is None


@given(st.lists(st.sampled_from(["<think>", "</tool_call>", "日本 ", "🙂", "a", " b"]), max_size=9))
def test_markers_come_out_in_their_place(words: list[str]) -> None:
    text = "".join(words)
    assert "".join(shown(text)[0]) == text


def test_what_was_held_back_comes_before_a_marker() -> None:
    parts, stream = shown("stop<think>sto</think>p stop", ("stop now", "p s"))
    assert "".join(parts) == "stop<think>sto</think>"
    assert stream.found == "p s"
    half = DEMO.encode("日")[0]
    (marker,) = DEMO.encode("<think>")
    stream = TextStream(DEMO, markers=True)
    held = stream.push(half)
    assert held + stream.push(marker) in ("\ufffd<think>", "日<think>")
    rest = [stream.push(token) for token in DEMO.encode("日a")]
    assert "".join([*rest, stream.finish()]) == "日a"


def test_a_stop_string_is_found_in_what_a_marker_pushes_out() -> None:
    half = DEMO.encode("日")[0]
    (marker,) = DEMO.encode("<think>")
    if DEMO.decode([half]) == "\ufffd":
        stream = TextStream(DEMO, ("\ufffd",), markers=True)
        assert stream.push(half) + stream.push(marker) == ""
        assert stream.found == "\ufffd"


def test_no_stop_string_matches_in_a_marker_or_across() -> None:
    parts, stream = shown("a<think>b", ("think", "<", "a<", ">b", "ab"))
    assert "".join(parts) == "a<think>b"
    assert stream.found is None
