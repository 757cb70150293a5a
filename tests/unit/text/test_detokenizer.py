from __future__ import annotations

import time
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from cluster.text.detokenizer import BROKEN, Detokenizer
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import CORPUS

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from([*CORPUS, "👩‍👩‍👧‍👦", "🏳️‍🌈", "ف", "…", "\n\n", "  "]), max_size=6).map(
        "".join
    ),
)


def pieces(tokenizer: object, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)  # type: ignore[arg-type]
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@given(text=TEXTS)
def test_the_pieces_of_a_text_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    parts = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(parts) == text
    if BROKEN not in text:
        assert BROKEN not in "".join(parts)


@given(ids=st.lists(st.integers(0, 399), max_size=60))
@settings(max_examples=300)
def test_any_ids_give_what_decoding_them_at_once_gives(
    tokenizer: Tokenizer, ids: list[int]
) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=TEXTS, cut=st.integers(0, 200))
def test_half_a_character_comes_out_at_the_end_only(
    tokenizer: Tokenizer, text: str, cut: int
) -> None:
    single = [token for byte in text.encode() for token in _byte(tokenizer, byte)][:cut]
    *before, last = pieces(tokenizer, single)
    if BROKEN not in text:
        assert BROKEN not in "".join(before)
    assert "".join(before) + last == text.encode()[:cut].decode("utf-8", errors="replace")


def _byte(tokenizer: Tokenizer, byte: int) -> list[int]:
    """The token of one byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [tokenizer._inner.convert_tokens_to_ids(bytes_to_unicode()[byte])]


def test_a_character_of_many_tokens_waits_for_its_last(tokenizer: Tokenizer) -> None:
    ids = [token for byte in "🙂".encode() for token in _byte(tokenizer, byte)]
    assert pieces(tokenizer, ids) == ["", "", "", "🙂", ""]


def test_broken_bytes_are_held_back_for_a_while_only(tokenizer: Tokenizer) -> None:
    (bad,) = _byte(tokenizer, 0xFF)
    detokenizer = Detokenizer(tokenizer)
    out = [detokenizer.push(bad) for _ in range(1000)]
    assert sum(map(len, out)) >= 1000 - Detokenizer.PENDING
    assert len(detokenizer._window) <= 2 * Detokenizer.PENDING
    assert "".join(out) + detokenizer.finish() == BROKEN * 1000


def test_tokens_without_text_are_forgotten(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    unknown = tokenizer.vocab_size + 7
    for token in [3, unknown] * 500:
        assert detokenizer.push(token) == ""
    assert len(detokenizer._window) <= 2 * Detokenizer.PENDING
    (letter,) = tokenizer.encode("a")
    assert detokenizer.push(letter) == "a"


def test_a_special_token_inside_a_character_changes_nothing(tokenizer: Tokenizer) -> None:
    first, *rest = [token for byte in "日".encode() for token in _byte(tokenizer, byte)]
    assert "".join(pieces(tokenizer, [first, 3, *rest])) == "日"


class Sentencepiece:
    """A decoder in the manner of Llama 2: bytes fall back, words begin with a mark."""

    special_ids = frozenset({0})

    def __init__(self) -> None:
        self.tokens = ["<s>", "▁Hello", "▁world", "!", "▁"] + [f"<0x{b:02X}>" for b in range(256)]
        vocab = [(token, 0.0) for token in self.tokens]
        self._backend = Backend(models.Unigram(vocab, unk_id=0, byte_fallback=True))
        self._backend.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(ids)


@given(st.lists(st.sampled_from([1, 2, 3, 4, "日", "🙂", "é"]), max_size=20))
def test_a_decoder_that_strips_the_first_space(words: list[int | str]) -> None:
    tokenizer = Sentencepiece()
    ids: list[int] = []
    for word in words:
        ids += [word] if isinstance(word, int) else [5 + byte for byte in word.encode()]
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert BROKEN not in "".join(parts)


def test_it_is_quick(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" ".join(CORPUS) * 20)
    best = 1.0
    for _ in range(5):
        detokenizer = Detokenizer(tokenizer)
        begun = time.perf_counter()
        for token in ids:
            detokenizer.push(token)
        best = min(best, (time.perf_counter() - begun) / len(ids))
    assert best < 100e-6, f"{best * 1e6:.0f} us per token"
