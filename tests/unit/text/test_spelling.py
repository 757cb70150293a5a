"""What single ids stand for, to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from cluster.core.ids import Slot
from cluster.core.plan import Likelihood
from cluster.core.request import TokenLogprob
from cluster.text.logprobs import token_logprob
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import CORPUS, make_folder

PIECES = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a", "é"]


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Tokenizer:
    """Like a Llama 2 tokenizer: spaces as U+2581, and bytes for what it has no token for."""
    vocab = {piece: token for token, piece in enumerate(PIECES)}
    made = tokenizers.Tokenizer(
        models.BPE(vocab, [("\u2581", "a")], byte_fallback=True, unk_token="<unk>")
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return with_tokenizer(tmp_path, made)


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    vocab = {"[UNK]": 0, "fox": 1, "##es": 2}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    return with_tokenizer(tmp_path, made)


def with_tokenizer(folder: Path, made: tokenizers.Tokenizer) -> Tokenizer:
    make_folder(folder)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


@pytest.mark.parametrize("text", CORPUS)
def test_the_bytes_of_the_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert any(len(tokenizer.token_bytes(token)) < len("天".encode()) for token in ids)


@pytest.mark.parametrize("text", ["a a", "aé天 a", "👍🏽"])
def test_sentencepiece(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert b"".join(map(sentencepiece.token_bytes, ids)) == b" " + text.encode()


def test_other_spellings_go_by_the_decoder(words: Tokenizer) -> None:
    assert words.token_bytes(1) == b"fox"


def test_special_and_unknown_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(2) == b"<|end|>"
    for token in (-1, tokenizer.vocab_size, 1 << 40):
        assert tokenizer.token_bytes(token) == b""


def test_a_part_of_a_character_has_its_bytes(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("ÿ")
    told = token_logprob(tokenizer, first, Likelihood(Slot(0), -0.5, ((second, -1.5), (2, -2.5))))
    assert told == TokenLogprob(
        "\ufffd",
        b"\xc3",
        -0.5,
        (TokenLogprob("\ufffd", b"\xbf", -1.5), TokenLogprob("<|end|>", b"<|end|>", -2.5)),
    )
