from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
